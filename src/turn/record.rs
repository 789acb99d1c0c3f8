//! How an attempt's end gets into the journal, and only then to its readers.

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::attempt::Attempt;
use super::emit::Emitter;
use super::ending::Ending;
use super::{EventSink, Outcome, StopHandle, Summary};
use crate::codex::engine::Engine;
use crate::error::with_sources;
use crate::event::SealedEvent;
use crate::fault;
use crate::host::Part;
use crate::workspace::{Finished, LockedJournal, Returned, StateError, ThreadEnd};

/// Between two tries to record a turn's end: unrecorded it must not be published.
const RECORD_RETRY: Duration = Duration::from_secs(1);

impl<E: Engine> Attempt<'_, E> {
    /// Cut off by the worker's shutdown, or never run for want of what the
    /// host lacks: not charged.
    pub(super) fn give_back(&self, journal: &mut LockedJournal) {
        let returned = Returned {
            turn_id: self.request.turn_id.as_str().to_owned(),
            attempt: self.number,
        };
        if let Err(error) = block_in_place(|| journal.returned(&returned)) {
            tracing::error!(
                error = with_sources(&error),
                "can't record that the turn is given back: this attempt will be charged"
            );
        }
        fault::at("turn.returned");
    }

    /// Records the end, then hands its events out. Until it is recorded,
    /// no part of it is published: a recorded end is never run again, and one that
    /// was published must not be.
    pub(super) async fn record<S: EventSink>(
        &self,
        journal: &mut LockedJournal,
        ending: Ending,
        mut out: Emitter<'_, S>,
        sink: &S,
        stop: &StopHandle,
    ) -> Outcome {
        let duration = self.began.elapsed();
        let first_text = out.first_text().map(|at| at.duration_since(self.began));
        // Where codex has not reported one, the one that was named is asked.
        let model = ending.spent.model.clone();
        let model = model.or_else(|| self.model().map(str::to_owned));
        let last: Vec<SealedEvent> = ending
            .bodies(self.request.metadata.clone(), model.clone(), duration)
            .into_iter()
            .filter_map(|body| out.seal(body))
            .collect();
        let mut unconfirmed = sink.unconfirmed();
        unconfirmed.extend_from_slice(&last);
        let finished = Finished {
            turn_id: self.request.turn_id.as_str().to_owned(),
            attempt: self.number,
            at: Timestamp::now(),
            stop_reason: ending.stop_reason,
            code: ending.error.as_ref().map(|error| error.code),
            usage: ending.spent.usage,
            thread: ending.thread_id.clone().map(|id| ThreadEnd {
                id,
                total: ending.spent.total,
                unkept: ending.unkept,
            }),
            unconfirmed,
            ending: last.clone(),
        };
        let mut waiting = None;
        let mut doubted = None;
        loop {
            match block_in_place(|| journal.finished(&finished)) {
                Ok(()) => break,
                Err(error @ StateError::NotNewest { .. }) => {
                    tracing::error!(%error, "another attempt runs; this one's end is not published");
                    return Outcome::Busy;
                }
                Err(error) if waiting.is_none() => {
                    let error = with_sources(&error);
                    tracing::error!(
                        error,
                        "can't record the turn's end yet; trying every second"
                    );
                }
                Err(_) => {}
            }
            if self.is_lock_lost(journal, &mut doubted) {
                return self.lock_lost(ending.leftovers).await;
            }
            let pause = async {
                if waiting.is_none() {
                    waiting = Some(self.runner.metrics.turn_unrecorded());
                    // If it is the whole disk, no other turn need be tried.
                    self.runner.host.examine(Part::Disk).await;
                }
                sleep(RECORD_RETRY).await;
            };
            tokio::select! {
                () = pause => {}
                () = stop.shutting_down() => return Outcome::Returned,
            }
        }
        fault::at("turn.finished");
        if waiting.is_some() {
            tracing::info!("recorded the turn's end at last");
        }
        let end = block_in_place(|| journal.end());
        if let Err(error) = &end {
            tracing::warn!(
                error = with_sources(error),
                "can't report how far the journal reaches"
            );
        }
        sink.push_final(&last);
        Outcome::Ended(Box::new(Summary {
            attempt: self.number,
            stop_reason: ending.stop_reason,
            error: ending.error,
            usage: ending.spent.usage,
            asked_model: self.model().map(str::to_owned),
            model,
            duration,
            first_text,
            thread_id: ending.thread_id,
            leftovers: ending.leftovers,
            ran: ending.ran,
            reached_model: ending.reached_model,
            journal: end.ok(),
        }))
    }

    /// Whether another host may run the turn by now. `doubted`: since when the lock is not confirmed.
    /// The guard has ended with its turn, so it is confirmed here.
    fn is_lock_lost(&self, journal: &LockedJournal, doubted: &mut Option<Instant>) -> bool {
        let Some(after) = self.runner.lock_lost_after else {
            return false;
        };
        match block_in_place(|| journal.lock().is_held()) {
            Ok(true) => *doubted = None,
            Ok(false) => return true,
            Err(_) => {
                let since = doubted.get_or_insert_with(Instant::now);
                return since.elapsed() >= after;
            }
        }
        false
    }
}
