//! Bounds and repairs what comes from the broker before lapin parses it.
//!
//! A producer may put bytes that are not UTF-8 into any short string, nest
//! tables without end, and fill a frame with headers; the broker delivers all
//! of it. lapin's parser closes the connection on the first, overflows its
//! stack on the second, and refuses a frame that the broker's own headers have
//! made too large. So method and header frames are held back until they are
//! whole, and what lapin would not survive is changed in place. All other
//! frames pass as they come.
//!
//! ```text
//! socket → TLS → FrameFilter → lapin
//! ```
//!
//! Pure: no I/O. `stream` puts it around a socket.

mod fields;
mod payload;
mod repairs;
pub(super) mod runtime;
mod stream;
#[cfg(test)]
mod tests;

use payload::{FrameOutcome, MIN_HEADER};
pub use payload::{MAX_DEPTH, MAX_VALUES};
pub use repairs::{RepairKind, RepairLog, RepairedFrame, Repairs};

/// Type, channel and size.
const FRAME_HEAD: usize = 7;
/// The octet after the payload.
const FRAME_END: u8 = 0xCE;
const FRAME_OVERHEAD: usize = FRAME_HEAD + 1;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// The first octet of `AMQP0091`, a broker's answer to a version that it does
/// not speak; it is no frame.
const PROTOCOL_HEADER: u8 = b'A';
/// A header frame without properties.
const BARE_HEADER_FRAME: usize = FRAME_OVERHEAD + MIN_HEADER;
/// lapin agrees on no less.
const FRAME_MIN_SIZE: usize = 8192;

/// How much is read at once. The buffer grows beyond it only while a larger
/// frame is held back.
const READ_BYTES: usize = 16 << 10;

/// What the next octets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Frame,
    /// So many octets of a frame that passes as it comes.
    Pass(usize),
    /// So many octets of a frame that was shortened.
    Skip(usize),
    /// Not AMQP 0-9-1.
    Everything,
}

/// Octets of the broker in, octets for lapin out.
#[derive(Debug)]
pub struct FrameFilter {
    /// `[..handed]` is lapin's already, `[handed..ready]` can be handed over,
    /// `[ready..filled]` is the beginning of a frame, the rest is free.
    buffer: Vec<u8>,
    handed: usize,
    ready: usize,
    filled: usize,
    next: Next,
    /// The largest frame that lapin accepts, with its head and end.
    frame_max: usize,
    route: Route,
}

/// Where the content that follows on a channel was published to.
#[derive(Debug, Default)]
struct Route {
    channel: u16,
    exchange: String,
    routing_key: String,
}

impl FrameFilter {
    /// `frame_max` is what lapin asks for, in bytes; the broker may lower it.
    pub fn new(frame_max: u32) -> Self {
        Self {
            buffer: Vec::new(),
            handed: 0,
            ready: 0,
            filled: 0,
            next: Next::Frame,
            frame_max: usize::try_from(frame_max).unwrap_or(usize::MAX),
            route: Route::default(),
        }
    }

    /// Moves what is ready to `out`, as far as it fits, and returns how much.
    /// At 0, more has to be read first.
    pub fn take(&mut self, out: &mut [u8]) -> usize {
        let ready = &self.buffer[self.handed..self.ready];
        let taken = ready.len().min(out.len());
        out[..taken].copy_from_slice(&ready[..taken]);
        self.handed += taken;
        taken
    }

    /// Where to read into; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.handed > 0 {
            self.buffer.copy_within(self.handed..self.filled, 0);
            self.ready -= self.handed;
            self.filled -= self.handed;
            self.handed = 0;
        }
        let needed = self.filled + READ_BYTES;
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        } else if self.filled == 0 && self.buffer.len() > 2 * READ_BYTES {
            self.buffer.truncate(READ_BYTES);
            self.buffer.shrink_to_fit();
        }
        &mut self.buffer[self.filled..]
    }

    /// So much of [`Self::space`] has been read into. `repaired` is called for
    /// each frame that was changed.
    pub fn filled(&mut self, read: usize, repaired: &mut dyn FnMut(&RepairedFrame<'_>)) {
        self.filled = (self.filled + read).min(self.buffer.len());
        while self.ready < self.filled && self.step(repaired) {}
    }

    /// Returns `false` if more has to be read first.
    fn step(&mut self, repaired: &mut dyn FnMut(&RepairedFrame<'_>)) -> bool {
        let there = self.filled - self.ready;
        match self.next {
            Next::Everything => self.ready = self.filled,
            Next::Pass(left) => {
                let passed = left.min(there);
                self.ready += passed;
                self.next = rest(left - passed, Next::Pass);
            }
            Next::Skip(left) => {
                let skipped = left.min(there);
                self.remove(self.ready, skipped);
                self.next = rest(left - skipped, Next::Skip);
            }
            Next::Frame => return self.frame(repaired),
        }
        true
    }

    fn frame(&mut self, repaired: &mut dyn FnMut(&RepairedFrame<'_>)) -> bool {
        let there = &self.buffer[self.ready..self.filled];
        if there.first() == Some(&PROTOCOL_HEADER) {
            self.next = Next::Everything;
            return true;
        }
        let Some((head, _)) = there.split_first_chunk::<FRAME_HEAD>() else {
            return false;
        };
        let [kind, channel @ .., s0, s1, s2, s3] = *head;
        let channel = u16::from_be_bytes(channel);
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        let whole = size.saturating_add(FRAME_OVERHEAD);
        let too_large = whole > self.frame_max;
        match kind {
            HEADER if too_large => {
                if there.len() < BARE_HEADER_FRAME {
                    return false;
                }
                let mut repairs = Repairs::default();
                repairs.add(RepairKind::Size);
                self.strip_header(whole);
                repaired(&self.route.frame(channel, repairs));
            }
            METHOD | HEADER if !too_large => {
                if there.len() < whole {
                    return false;
                }
                self.whole_frame(kind, channel, whole, repaired);
            }
            _ => self.next = Next::Pass(whole),
        }
        true
    }

    /// Repairs a method or header frame of that many octets.
    fn whole_frame(
        &mut self,
        kind: u8,
        channel: u16,
        whole: usize,
        repaired: &mut dyn FnMut(&RepairedFrame<'_>),
    ) {
        let payload = self.ready + FRAME_HEAD..self.ready + whole - 1;
        let payload = &mut self.buffer[payload];
        let mut repairs = Repairs::default();
        let outcome = match kind {
            METHOD => payload::method(payload, &mut repairs),
            _ => payload::header(payload, &mut repairs),
        };
        match outcome {
            FrameOutcome::Keeps => self.ready += whole,
            FrameOutcome::Tunes(frame_max) => {
                self.tune(frame_max);
                self.ready += whole;
            }
            FrameOutcome::Routes {
                exchange,
                routing_key,
            } => {
                let text = |range| str::from_utf8(&payload[range]).unwrap_or_default();
                let (exchange, routing_key) = (text(exchange), text(routing_key));
                self.route.set(channel, exchange, routing_key);
                self.ready += whole;
            }
            FrameOutcome::LosesProperties => self.strip_header(whole),
        }
        if !repairs.is_empty() {
            repaired(&self.route.frame(channel, repairs));
        }
    }

    /// Shortens the header frame of that many octets to one without properties.
    fn strip_header(&mut self, whole: usize) {
        let frame = &mut self.buffer[self.ready..self.ready + BARE_HEADER_FRAME];
        frame[FRAME_HEAD - 4..FRAME_HEAD].copy_from_slice(&(MIN_HEADER as u32).to_be_bytes());
        frame[BARE_HEADER_FRAME - 3..].copy_from_slice(&[0, 0, FRAME_END]);
        self.ready += BARE_HEADER_FRAME;
        self.next = rest(whole - BARE_HEADER_FRAME, Next::Skip);
    }

    /// As lapin negotiates: the smaller one, where 0 means no limit.
    fn tune(&mut self, frame_max: u32) {
        let theirs = usize::try_from(frame_max).unwrap_or(usize::MAX);
        if theirs != 0 && theirs < self.frame_max {
            self.frame_max = theirs.max(FRAME_MIN_SIZE);
        }
    }

    fn remove(&mut self, at: usize, octets: usize) {
        self.buffer.copy_within(at + octets..self.filled, at);
        self.filled -= octets;
    }
}

/// Repairs a method's payload that is read without lapin.
pub(super) fn repair_method(payload: &mut [u8]) {
    payload::method(payload, &mut Repairs::default());
}

fn rest(left: usize, next: fn(usize) -> Next) -> Next {
    match left {
        0 => Next::Frame,
        left => next(left),
    }
}

impl Route {
    fn set(&mut self, channel: u16, exchange: &str, routing_key: &str) {
        self.channel = channel;
        self.exchange.clear();
        self.exchange.push_str(exchange);
        self.routing_key.clear();
        self.routing_key.push_str(routing_key);
    }

    /// Frames of other channels may come between a delivery and its header; then
    /// its route is unknown.
    fn frame(&self, channel: u16, repairs: Repairs) -> RepairedFrame<'_> {
        let (exchange, routing_key) = match channel == self.channel {
            true => (self.exchange.as_str(), self.routing_key.as_str()),
            false => ("", ""),
        };
        RepairedFrame {
            repairs,
            exchange,
            routing_key,
        }
    }
}
