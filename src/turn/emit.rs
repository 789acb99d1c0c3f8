//! A turn's events on their way out: filtered, numbered, handed to the sink.

use jiff::Timestamp;
use tokio::time::Instant;

use super::event_sink::EventSink;
use super::stop::{Clocks, Stop};
use crate::config::EventSet;
use crate::event::{EventBody, SealedEvent, Sealer, Tokens};
use crate::fault;

pub(super) struct Emitter<'a, S> {
    sealer: Sealer,
    set: EventSet,
    sink: &'a S,
    first_text: Option<Instant>,
}

impl<'a, S: EventSink> Emitter<'a, S> {
    pub(super) fn new(sealer: Sealer, set: EventSet, sink: &'a S) -> Self {
        Self {
            sealer,
            set,
            sink,
            first_text: None,
        }
    }

    pub(super) fn first_text(&self) -> Option<Instant> {
        self.first_text
    }

    /// What the attempt has spent so far.
    pub(super) fn spent(&self, so_far: Tokens) {
        self.sink.spent(so_far);
    }

    /// Numbers an event without handing it out. Numbered only here, behind
    /// the filter, so that `seq` has no gap (G6).
    pub(super) fn seal(&mut self, body: EventBody) -> Option<SealedEvent> {
        if matches!(body, EventBody::TextDelta { .. }) {
            self.first_text.get_or_insert_with(Instant::now);
        }
        (self.set == EventSet::Full || body.is_minimal())
            .then(|| self.sealer.seal(body, Timestamp::now()))
    }

    /// Waits for room on the way out, at most until the turn has to stop.
    pub(super) async fn emit(&mut self, body: EventBody, clocks: &mut Clocks) -> Result<(), Stop> {
        let Some(event) = self.seal(body) else {
            return Ok(());
        };
        if fault::is_on("sabotage.seq") {
            return Ok(());
        }
        let pushed = clocks.unless_stopped(self.sink.push(&event)).await;
        if pushed.is_err() {
            // It has its number already: leaving it out would be a gap.
            self.sink.push_final(&[event]);
        }
        fault::at("turn.told");
        pushed
    }
}
