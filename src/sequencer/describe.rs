//! Answers producers that ask where a turn is.
//!
//! Every producer may ask, as often as it likes, so a question is cheap and
//! may be dropped: it takes one of a few places, its look at the records is one
//! bounded read off the loop, and its answer is sent once. Who asks gets no more
//! than by a request with the same turn id and workspace, which has the end sent
//! to its `reply_to`, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::actions::{Actor, Answer};
use super::queue::Place;
use super::remote_records::unexpected;
use super::reply::unless_cut;
use crate::amqp::messages::{DescribeTurn, Description, RecordsAnswer, RecordsTask, TurnPosition};
use crate::amqp::reply::ReplyAddress;
use crate::error::with_sources;
use crate::heartbeat::LISTEN;
use crate::metrics::DescriptionOutcome;
use crate::workspace::{RecordReader, TurnStage};

/// Questions in a second, for longer than a moment.
const RATE: u32 = 100;
/// Questions at once, after a while without any.
const BURST: u32 = 200;
/// Questions that are not answered yet, those that wait for a second look included.
const PLACES: usize = 256;
/// How long the records may take: who asks asks again.
const WITHIN: Duration = Duration::from_secs(5);

/// A question that is answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub turn: DescribeTurn,
    address: ReplyAddress,
    /// It was found nowhere, and is looked for again.
    is_second_look: bool,
    _place: OwnedSemaphorePermit,
}

/// What the session knows of the turn.
#[derive(Debug)]
pub(super) struct Seen {
    /// The disk of its records; `None` if its workspace has no home.
    pub disk: Option<Uuid>,
    pub place: Option<Place>,
    /// Turns that were not read yet.
    pub unread: usize,
}

/// Bounds what producers can ask.
#[derive(Debug)]
pub(super) struct Questions {
    allowance: Allowance,
    places: Arc<Semaphore>,
}

impl Questions {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            allowance: Allowance::full(now),
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }

    /// Returns `None` if there are too many.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        turn: DescribeTurn,
        address: ReplyAddress,
    ) -> Option<Asked> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        self.allowance.take(now).then_some(Asked {
            turn,
            address,
            is_second_look: false,
            _place: place,
        })
    }
}

/// A token bucket.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn full(now: Instant) -> Self {
        Self {
            left: f64::from(BURST),
            at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + elapsed * f64::from(RATE)).min(f64::from(BURST));
        self.at = now;
        let is_allowed = self.left >= 1.0;
        if is_allowed {
            self.left -= 1.0;
        }
        is_allowed
    }
}

/// What can be said of a turn by its records and by what the session knows.
/// Returns `None` if that is to be looked at again, since a worker's word or the
/// turn itself may be in flight.
fn position(stage: Option<&TurnStage>, seen: &Seen, is_second_look: bool) -> Option<TurnPosition> {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    match (stage, seen.place) {
        // Also of a held turn: its `done` may have been lost.
        (Some(TurnStage::Ended(events)), _) => TurnPosition::ended(events),
        (Some(&TurnStage::Started { attempt, at }), Some(place)) if place.runs => {
            Some(TurnPosition::Running { attempt, since: at })
        }
        (Some(TurnStage::Started { .. }), _) | (None, None) if !is_second_look => None,
        (_, Some(place)) => Some(TurnPosition::Waiting {
            place: count(place.ahead + 1),
            paused: place.paused,
        }),
        (_, None) => Some(TurnPosition::Unknown {
            unread: count(seen.unread),
        }),
    }
}

impl Actor {
    /// Off the loop. Comes back as [`Answer::SecondLook`] if it can't be answered yet.
    pub(super) fn describe(
        &self,
        asked: Asked,
        seen: Seen,
        answers: mpsc::UnboundedSender<Answer>,
    ) {
        let (actor, cut) = (self.clone(), self.cut.clone());
        unless_cut(cut, async move {
            let stage = match timeout(WITHIN, actor.stage(&asked.turn, seen.disk)).await {
                Ok(Ok(stage)) => stage,
                Ok(Err(error)) => return actor.not_described(&asked, &error),
                Err(_) => return actor.not_described(&asked, "the disk does not answer"),
            };
            let Some(position) = position(stage.as_ref(), &seen, asked.is_second_look) else {
                if asked.is_second_look {
                    return actor.not_described(&asked, "the records have no event of its end");
                }
                sleep(LISTEN).await;
                let is_second_look = true;
                let asked = Asked {
                    is_second_look,
                    ..asked
                };
                // A session that is over does not answer.
                let _ = answers.send(Answer::SecondLook(asked));
                return;
            };
            let description = Description {
                turn_id: asked.turn.turn_id.clone(),
                workspace: asked.turn.workspace.to_string(),
                position,
            };
            let end = match stage {
                Some(TurnStage::Ended(events)) => events,
                Some(TurnStage::Started { .. }) | None => Vec::new(),
            };
            let _place = actor.descriptions.acquire().await;
            let sent = actor.publisher.answer(&asked.address, &description, &end);
            actor.metrics.description(sent.await.into());
        });
    }

    fn not_described(&self, asked: &Asked, error: &str) {
        let (turn_id, workspace) = (&*asked.turn.turn_id, asked.turn.workspace.as_str());
        tracing::debug!(error, turn_id, workspace, "can't look where a turn is");
        self.metrics.description(DescriptionOutcome::Failed);
    }

    async fn stage(
        &self,
        turn: &DescribeTurn,
        disk: Option<Uuid>,
    ) -> Result<Option<TurnStage>, String> {
        // A workspace that has no home has no records.
        let Some(disk) = disk else { return Ok(None) };
        if !self.is_here(disk) {
            let task = RecordsTask::Stage {
                workspace: turn.workspace.to_string(),
                turn_id: turn.turn_id.clone(),
            };
            return match self.ask(disk, task, WITHIN).await? {
                RecordsAnswer::Stage(stage) => Ok(stage),
                other => Err(unexpected(&other)),
            };
        }
        let lane = self.reading.enter(Some(turn.workspace.as_str())).await;
        let lane = lane.map_err(|error| with_sources(&error))?;
        let reading = Arc::clone(&self.reads).acquire_owned().await;
        let (root, turn) = (self.records.root.path().to_owned(), turn.clone());
        let read = lane.run(move || {
            // A read that hangs keeps its permit.
            let _reading = reading;
            let reader = RecordReader::open(&root).map_err(|error| with_sources(&error))?;
            let stage = reader.stage(turn.workspace.as_str(), &turn.turn_id);
            stage.map_err(|error| with_sources(&error))
        });
        read.await.map_err(|error| with_sources(&error))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_turn() {
        let place = |runs| Place {
            ahead: 2,
            runs,
            paused: false,
        };
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let started = TurnStage::Started { attempt: 1, at };
        let state = |stage: Option<&TurnStage>, place, is_second_look| {
            let seen = Seen {
                disk: None,
                place,
                unread: 7,
            };
            let position = position(stage, &seen, is_second_look)?;
            Some(match position {
                TurnPosition::Unknown { unread } => format!("unknown, {unread} unread"),
                TurnPosition::Waiting { place, .. } => format!("waiting, {place}"),
                TurnPosition::Running { attempt, .. } => format!("running, {attempt}"),
                TurnPosition::Ended { .. } => "ended".to_owned(),
            })
        };
        let of = |stage, place| [false, true].map(|second| state(stage, place, second));
        let twice = |text: &str| [Some(text.to_owned()), Some(text.to_owned())];
        let late = |text: &str| [None, Some(text.to_owned())];
        assert_eq!(of(None, Some(place(false))), twice("waiting, 3"));
        // Taken by a worker that waits for its workspace.
        assert_eq!(of(None, Some(place(true))), twice("waiting, 3"));
        assert_eq!(of(Some(&started), Some(place(true))), twice("running, 1"));
        // No worker has been heard of since a takeover, or its worker has died.
        assert_eq!(of(Some(&started), Some(place(false))), late("waiting, 3"));
        assert_eq!(of(Some(&started), None), late("unknown, 7 unread"));
        assert_eq!(of(None, None), late("unknown, 7 unread"));
        let no_events = TurnStage::Ended(Vec::new());
        assert_eq!(of(Some(&no_events), Some(place(false))), [None, None]);
    }

    fn question() -> (DescribeTurn, ReplyAddress) {
        let turn = DescribeTurn {
            turn_id: "t".to_owned(),
            workspace: "a".parse().unwrap(),
        };
        let queue = "amq_0123456789abcdef0123456789abcdef";
        (turn, ReplyAddress::new(queue, None).unwrap())
    }

    #[test]
    fn g10_so_many_questions_are_taken_and_then_so_many_a_second() {
        let now = Instant::now();
        let mut questions = Questions::new(now);
        let mut admitted = |at: Duration| {
            let taken = (0..2 * BURST).filter(|_| {
                let (turn, address) = question();
                questions.admit(now + at, turn, address).is_some()
            });
            taken.count()
        };
        assert_eq!(admitted(Duration::ZERO), 200);
        assert_eq!(admitted(Duration::ZERO), 0);
        assert_eq!(admitted(Duration::from_millis(500)), 50);
        assert_eq!(admitted(Duration::from_secs(60)), 200);
    }

    #[test]
    fn g10_questions_without_an_answer_are_bounded() {
        let mut now = Instant::now();
        let mut questions = Questions::new(now);
        let mut asked = Vec::new();
        for _ in 0..2 * PLACES {
            now += Duration::from_secs(1);
            let (turn, address) = question();
            asked.extend(questions.admit(now, turn, address));
        }
        assert_eq!(asked.len(), PLACES);
        asked.pop();
        let (turn, address) = question();
        assert!(questions.admit(now, turn, address).is_some());
    }
}
