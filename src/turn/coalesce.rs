//! Joins the pieces in which a text comes, so that a fast model does not
//! flood the broker: one event for what comes within a window. Pure; time is
//! passed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::EventBody;

/// How long a piece may wait for more.
pub(crate) const WINDOW: Duration = Duration::from_millis(30);
/// The most of one piece, in bytes.
pub(crate) const MAX_PIECE: usize = 4 << 10;

/// The first piece of an item, and one after a pause, goes at once; what
/// follows waits for at most the window. Anything else first lets out what
/// waits, so that the order is kept.
#[derive(Debug)]
pub(crate) struct Coalescer {
    window: Duration,
    /// What waits, and until when.
    waiting: Option<(Piece, Instant)>,
    /// Of what something went last, and when.
    last: Option<(Stream, Instant)>,
}

/// What can be joined: one kind of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    Output,
}

type Stream = (Kind, String);

#[derive(Debug)]
struct Piece {
    stream: Stream,
    text: String,
}

impl Piece {
    fn of(body: EventBody) -> Result<Self, Box<EventBody>> {
        let (kind, id, text) = match body {
            EventBody::TextDelta { item_id, text } => (Kind::Text, item_id, text),
            EventBody::ThinkingDelta { item_id, text } => (Kind::Thinking, item_id, text),
            EventBody::ToolOutput { tool_use_id, text } => (Kind::Output, tool_use_id, text),
            other => return Err(Box::new(other)),
        };
        Ok(Self {
            stream: (kind, id),
            text,
        })
    }

    fn event(&self, text: String) -> EventBody {
        let (kind, id) = self.stream.clone();
        match kind {
            Kind::Text => EventBody::TextDelta { item_id: id, text },
            Kind::Thinking => EventBody::ThinkingDelta { item_id: id, text },
            Kind::Output => EventBody::ToolOutput {
                tool_use_id: id,
                text,
            },
        }
    }

    /// Takes whole pieces out, until what is left fits into one.
    fn full(&mut self) -> Vec<EventBody> {
        let mut full = Vec::new();
        let mut rest = self.text.as_str();
        while rest.len() > MAX_PIECE {
            let (piece, more) = rest.split_at(rest.floor_char_boundary(MAX_PIECE));
            full.push(self.event(piece.to_owned()));
            rest = more;
        }
        let gone = self.text.len() - rest.len();
        self.text.drain(..gone);
        full
    }
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new(WINDOW)
    }
}

impl Coalescer {
    /// Without a window everything goes at once.
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            waiting: None,
            last: None,
        }
    }

    /// What is to be published now.
    pub(crate) fn push(&mut self, body: EventBody, now: Instant) -> Vec<EventBody> {
        let mut piece = match Piece::of(body) {
            Ok(piece) => piece,
            Err(other) => {
                let mut out = self.flush();
                // What comes after it is not held up by what came before.
                self.last = None;
                out.push(*other);
                return out;
            }
        };
        let mut out = self.due(now);
        if let Some((waiting, _)) = &mut self.waiting
            && waiting.stream == piece.stream
        {
            waiting.text.push_str(&piece.text);
            let full = waiting.full();
            if !full.is_empty() {
                self.last = Some((piece.stream, now));
                out.extend(full);
            }
            return out;
        }
        out.extend(self.flush());
        let is_recent =
            |(stream, at): &(Stream, Instant)| *stream == piece.stream && now < *at + self.window;
        match self.last.as_ref().filter(|last| is_recent(last)) {
            Some((_, at)) => {
                let until = *at + self.window;
                out.extend(piece.full());
                self.waiting = Some((piece, until));
            }
            None => {
                out.extend(piece.full());
                out.push(piece.event(piece.text.clone()));
                self.last = Some((piece.stream, now));
            }
        }
        out
    }

    /// When something that waits has to go.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|(_, until)| *until)
    }

    /// What has waited for long enough.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<EventBody> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        let out = self.flush();
        if let Some((_, at)) = &mut self.last {
            *at = now;
        }
        out
    }

    /// All that waits.
    pub(crate) fn flush(&mut self) -> Vec<EventBody> {
        let Some((piece, until)) = self.waiting.take() else {
            return Vec::new();
        };
        let event = piece.event(piece.text.clone());
        self.last = Some((piece.stream, until));
        vec![event]
    }
}

#[cfg(test)]
mod tests;
