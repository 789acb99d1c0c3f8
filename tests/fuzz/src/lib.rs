//! What all targets share: reading must not cost much more memory
//! than its own size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::thread;

use amq_protocol::frame::parse_frame;
use turn_worker::amqp::frames::FrameFilter;
use turn_worker::codex::app_server::{Conversation, Heard, Load};
use turn_worker::codex::protocol::{self, CliEvent};
use turn_worker::config::Sandbox;

/// Counts what each thread holds. libFuzzer's own memory is not in it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no such variables any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        unsafe { System.dealloc(block, layout) }
    }
}

/// Runs `read` and panics if at any moment it held more than `per_byte` times
/// the input's size and `fixed` bytes.
pub fn bounded<T>(input: &[u8], per_byte: usize, fixed: usize, read: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    MOST.set(before);
    let result = read();
    let held = (MOST.get() - before).cast_unsigned();
    let allowed = input.len() * per_byte + fixed;
    assert!(held <= allowed, "{held} bytes for {} of input", input.len());
    result
}

/// What reads a line of codex's, by each of its engines.
pub fn readers() -> [Box<dyn FnMut(&[u8]) -> Vec<CliEvent>>; 2] {
    let mut server = in_a_turn();
    let heard = move |line: &[u8]| {
        let heard = server.hear(line);
        // What it answers goes away at once, as to a server that reads.
        drop(server.take_outgoing());
        let events = heard.into_iter().filter_map(|heard| match heard {
            Heard::Event(event) => Some(event),
            _ => None,
        });
        events.collect()
    };
    [
        Box::new(|line| protocol::parse_line(line).into_iter().collect()),
        Box::new(heard),
    ]
}

/// A conversation of the turn `u` on the thread `t`.
fn in_a_turn() -> Conversation {
    let mut server = Conversation::new();
    server.hear(br#"{"id":1,"result":{}}"#);
    server.load(Load {
        cwd: "/w".to_owned(),
        sandbox: Sandbox::Bypass,
        model: None,
        effort: None,
        resume: None,
    });
    server.hear(br#"{"id":2,"result":{"thread":{"id":"t"}}}"#);
    server.go("x".into());
    server.hear(br#"{"id":3,"result":{"turn":{"id":"u"}}}"#);
    server.hear(br#"{"method":"turn/started","params":{"threadId":"t","turn":{"id":"u"}}}"#);
    drop(server.take_outgoing());
    server
}

/// What the filter makes of a broker's octets, read in pieces of that length.
pub fn filtered(octets: &[u8], piece: usize) -> Vec<u8> {
    let mut filter = FrameFilter::new(128 << 10);
    let mut done = Vec::new();
    let mut left = octets;
    while !left.is_empty() {
        let space = filter.space();
        let read = space.len().min(piece).min(left.len());
        space[..read].copy_from_slice(&left[..read]);
        left = &left[read..];
        filter.filled(read, &mut |_| {});
        let mut out = [0; 4096];
        loop {
            match filter.take(&mut out) {
                0 => break,
                taken => done.extend_from_slice(&out[..taken]),
            }
        }
    }
    done
}

/// How many frames lapin's parser reads, with an eighth of the stack that lapin
/// gives it and in bounded memory; `None` if it finds something that is no frame.
pub fn parsed(octets: &[u8]) -> Option<usize> {
    let parse = || {
        let mut frames = 0;
        let mut left = octets;
        while !left.is_empty() {
            let read = || parse_frame(left).map(|(rest, frame)| (rest, drop(frame)));
            match bounded(left, 8, 2 << 20, read) {
                Ok((rest, ())) => left = rest,
                Err(error) if error.is_incomplete() => break,
                Err(_) => return None,
            }
            frames += 1;
        }
        Some(frames)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(256 << 10);
        let thread = thread.spawn_scoped(scope, parse).expect("a thread starts");
        thread.join().expect("nothing panics")
    })
}
