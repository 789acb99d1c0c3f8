//! How a turn's beginning and end are published.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::stop::Stop;
use super::structured;
use super::usage::Spent;
use crate::codex::translate::{Finished, Verdict};
use crate::event::{
    ErrorCode, EventBody, NoticeCode, Reason, SealedEvent, Sealer, StopReason, TurnError,
};
use crate::request::{Metadata, Rejection, TurnId, TurnRequest, WorkspaceId};
use crate::workspace::Unkept;

/// Numbers the events of one attempt at the turn.
pub(super) fn sealer(request: &TurnRequest, attempt: u32) -> Sealer {
    let (turn_id, workspace) = (request.turn_id.as_str(), request.workspace.as_str());
    Sealer::new(turn_id, workspace, attempt).traced(request.trace.as_ref())
}

pub(super) fn message_start(request: &TurnRequest, model: Option<&str>) -> EventBody {
    EventBody::MessageStart {
        model: model.map(str::to_owned),
        metadata: request.metadata.clone(),
    }
}

/// All that is known when a turn has ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// Still to be published before the end.
    pub trailing: Vec<EventBody>,
    pub stop_reason: StopReason,
    pub error: Option<TurnError>,
    /// The turn for which it was cancelled.
    pub superseded_by: Option<String>,
    pub text: Option<String>,
    /// What the text is, where it was to be JSON.
    pub structured: Option<Value>,
    pub thread_id: Option<String>,
    pub spent: Spent,
    pub leftovers: u64,
    pub ran: bool,
    /// Whether the model was asked in this attempt.
    pub reached_model: bool,
    /// The session file does not name the thread.
    pub unkept: Option<Unkept>,
}

impl Ending {
    /// Of a turn that codex was not started for.
    pub(super) fn not_run(stop_reason: StopReason, error: Option<TurnError>, spent: Spent) -> Self {
        Self {
            trailing: Vec::new(),
            stop_reason,
            error,
            superseded_by: None,
            text: None,
            structured: None,
            thread_id: None,
            spent,
            leftovers: 0,
            ran: false,
            reached_model: false,
            unkept: None,
        }
    }

    /// Of a turn that codex is done with, or was stopped at.
    pub(super) fn ran(
        finished: Finished,
        stop: Option<Stop>,
        spent: Spent,
        leftovers: u64,
    ) -> Self {
        let mut trailing = finished.events;
        if spent.base_unknown {
            trailing.push(EventBody::Notice {
                code: NoticeCode::UsageUnknown,
                message: "the conversation's token total before this turn is unknown, \
                          so this turn's tokens are not counted"
                    .to_owned(),
            });
        }
        let (stop_reason, error) = match stop {
            None => match finished.verdict {
                Verdict::EndTurn => (StopReason::EndTurn, None),
                Verdict::Failed(error) => (StopReason::Error, Some(error)),
            },
            // The last two record no end and never come here; as a cancel it is at least true.
            Some(Stop::Cancel | Stop::Shutdown | Stop::Outdated) => (StopReason::Cancelled, None),
            Some(Stop::Timeout) => (StopReason::Timeout, Some(timed_out(ErrorCode::TurnTimeout))),
            Some(Stop::Idle) => (StopReason::Timeout, Some(timed_out(ErrorCode::IdleTimeout))),
        };
        Self {
            trailing,
            stop_reason,
            error,
            superseded_by: None,
            text: finished.last_text,
            structured: None,
            thread_id: finished.thread_id,
            spent,
            leftovers,
            ran: true,
            reached_model: finished.reached_model,
            unkept: None,
        }
    }

    /// Of a turn with a thread that could not be written to the session file.
    pub(super) fn unkept(mut self, unkept: Option<Unkept>) -> Self {
        if unkept.is_some() {
            self.trailing.push(EventBody::Notice {
                code: NoticeCode::SessionNotKept,
                message: "the session file of the workspace can't be written, so it does not name \
                          this conversation; later turns go on with it all the same"
                    .to_owned(),
            });
        }
        self.unkept = unkept;
        self
    }

    /// Of a turn that must answer in JSON. What a turn that came to no good
    /// end said last is no answer.
    pub(super) fn structured(mut self) -> Self {
        if self.stop_reason == StopReason::EndTurn {
            match structured::read(self.text.as_deref()) {
                Ok(value) => self.structured = Some(value),
                Err(message) => self.trailing.push(EventBody::Notice {
                    code: NoticeCode::NotStructured,
                    message,
                }),
            }
        }
        self
    }

    /// For which turn it was cancelled, if it was.
    pub(super) fn superseded_by(mut self, turn_id: Option<String>) -> Self {
        self.superseded_by = turn_id.filter(|_| self.stop_reason == StopReason::Cancelled);
        self
    }

    /// The last events, in their order.
    pub(super) fn bodies(
        &self,
        metadata: Option<Metadata>,
        model: Option<String>,
        duration: Duration,
    ) -> Vec<EventBody> {
        let error = self.error.clone().map(|error| EventBody::Error { error });
        let end = EventBody::MessageEnd {
            stop_reason: self.stop_reason,
            text: self.text.clone(),
            structured: self.structured.clone(),
            thread_id: self.thread_id.clone(),
            superseded_by: self.superseded_by.clone(),
            model,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            metadata,
            usage: self.spent.usage,
        };
        self.trailing
            .iter()
            .cloned()
            .chain(error)
            .chain([end])
            .collect()
    }
}

fn timed_out(code: ErrorCode) -> TurnError {
    let message = match code {
        ErrorCode::IdleTimeout => "codex said nothing for longer than the idle limit",
        _ => "the turn ran longer than its limit",
    };
    failure(code, message.to_owned(), true)
}

pub(super) fn failure(code: ErrorCode, message: String, retryable: bool) -> TurnError {
    TurnError {
        code,
        message,
        reason: Reason::Unknown,
        retryable,
    }
}

/// All events of a turn that never ran: their attempt is 0.
pub fn simple_ending(
    request: &TurnRequest,
    stop_reason: StopReason,
    error: Option<TurnError>,
) -> Vec<SealedEvent> {
    let ending = Ending::not_run(stop_reason, error, Spent::default());
    unrun_request(request, ending)
}

/// The same, of a turn that was cancelled; for another one, if one is named.
pub fn cancelled_ending(request: &TurnRequest, superseded_by: Option<String>) -> Vec<SealedEvent> {
    let ending = Ending::not_run(StopReason::Cancelled, None, Spent::default());
    unrun_request(request, ending.superseded_by(superseded_by))
}

fn unrun_request(request: &TurnRequest, ending: Ending) -> Vec<SealedEvent> {
    let start = message_start(request, None);
    let metadata = request.metadata.clone();
    let sealer = sealer(request, 0);
    unrun(sealer, start, ending, metadata, Timestamp::now())
}

/// The attempt of the end of a turn with lost records: higher than any that it
/// may have had, so that readers take it for the newest.
const LOST_ATTEMPT: u32 = 1_000_000;

/// All events of a turn with lost records that may have been started. No record holds them, so they
/// are the same whenever they are made, by any process: `time` is that of the loss.
pub fn lost_ending(request: &TurnRequest, error: TurnError, time: Timestamp) -> Vec<SealedEvent> {
    let ending = Ending::not_run(StopReason::Error, Some(error), Spent::default());
    let start = message_start(request, None);
    let metadata = request.metadata.clone();
    unrun(sealer(request, LOST_ATTEMPT), start, ending, metadata, time)
}

/// All events of a request that can't be accepted. Its workspace may be
/// unknown, and is empty then.
pub fn rejected_ending(rejection: &Rejection, turn_id: &TurnId) -> Vec<SealedEvent> {
    let workspace = rejection.workspace.as_ref();
    let workspace = workspace.map_or("", WorkspaceId::as_str);
    let start = EventBody::MessageStart {
        model: None,
        metadata: rejection.metadata.clone(),
    };
    let error = failure(rejection.code, rejection.to_string(), false);
    let ending = Ending::not_run(StopReason::Error, Some(error), Spent::default());
    let sealer = Sealer::new(turn_id.as_str(), workspace, 0).traced(rejection.trace.as_ref());
    unrun(
        sealer,
        start,
        ending,
        rejection.metadata.clone(),
        Timestamp::now(),
    )
}

fn unrun(
    mut sealer: Sealer,
    start: EventBody,
    ending: Ending,
    metadata: Option<Metadata>,
    time: Timestamp,
) -> Vec<SealedEvent> {
    [start]
        .into_iter()
        .chain(ending.bodies(metadata, None, Duration::ZERO))
        .map(|body| sealer.seal(body, time))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Limits, Properties};

    /// Each sequencer that ends a turn with its disk makes its events anew.
    #[test]
    fn g5_the_end_of_a_turn_with_lost_records_is_the_same_each_time() {
        let body = br#"{"turn_id": "t", "workspace": "a", "messages": [{"role": "user", "content": "p"}]}"#;
        let made = || {
            let limits = Limits::accepted();
            let request = TurnRequest::parse(body, &limits, &Properties::default()).unwrap();
            let error = failure(ErrorCode::WorkspaceLost, "gone".to_owned(), false);
            let time = Timestamp::from_second(1_700_000_000).unwrap();
            lost_ending(&request, error, time)
        };
        let (first, again) = (made(), made());
        assert_eq!(first.len(), 3);
        for (event, again) in first.iter().zip(&again) {
            assert_eq!(event.json, again.json);
            assert!(event.json.contains("2023-11-14T22:13:20"), "{}", event.json);
        }
    }
}
