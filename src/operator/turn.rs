//! One turn, by its records and by what the pool reports. Pure.

use jiff::Timestamp;
use serde::Serialize;

use super::status::PoolStatus;
use super::wait_reason::why;
use crate::event::{
    ErrorCode, EventBody, Reason, SealedEvent, StopReason, Tokens, TurnEvent, Usage,
};
use crate::workspace::TurnRecord;

/// What is known of a turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TurnReport {
    pub turn_id: String,
    /// `None` if it is not known, or a rejected request lacks it.
    pub workspace: Option<String>,
    #[serde(flatten)]
    pub state: TurnState,
    /// From the first to the last, as far as they are recorded.
    pub attempts: Vec<AttemptReport>,
    /// It was cancelled.
    pub cancel_requested: bool,
}

/// Where a turn stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TurnState {
    /// In line.
    Waiting {
        /// From 1, the first that is not done; `None` if the turn stands behind those that are reported.
        place: Option<u64>,
        /// Turns in that line.
        of: u64,
        why: String,
    },
    /// A worker reports that it runs it.
    Running {
        worker: String,
        /// 0 if no attempt has started yet.
        attempt: u32,
        since: Timestamp,
        /// By this attempt so far; `None`: codex has not reported it.
        spent: Option<Tokens>,
    },
    /// Recorded as started, not as ended, and no worker reports it: its worker
    /// has died, or the pool was not heard.
    Started,
    Ended(EndReport),
    /// No record of it, and no process reports it.
    Unknown {
        why: String,
    },
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndReport {
    pub outcome: StopReason,
    pub at: Timestamp,
    /// The process that recorded the end, where no attempt names it.
    pub by: Option<String>,
    pub code: Option<ErrorCode>,
    pub reason: Option<Reason>,
    /// The error's words.
    pub error: Option<String>,
    pub model: Option<String>,
    /// `None`: unknown.
    pub usage: Option<Usage>,
    /// Of the last attempt, in milliseconds.
    pub duration_ms: Option<u64>,
    pub thread_id: Option<String>,
    pub superseded_by: Option<String>,
}

/// One start of a turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptReport {
    pub attempt: u32,
    pub worker: String,
    pub started_at: Timestamp,
    pub end: AttemptEnd,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The turn ended with it.
    Finished,
    /// Cut off by a shutdown, or never run; not charged.
    Returned,
    /// Its worker died, and a later attempt started.
    Lost,
    /// No end is recorded.
    Open,
}

impl AttemptEnd {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Returned => "returned",
            Self::Lost => "lost",
            Self::Open => "open",
        }
    }
}

impl TurnReport {
    /// `workspace`: the one that is meant, if one is; `record`: what was found
    /// there, if anything; `pool`: what the pool reports, if it was heard.
    pub fn of(
        turn_id: &str,
        workspace: Option<&str>,
        record: Option<&TurnRecord>,
        pool: Option<&PoolStatus>,
    ) -> Self {
        let ended = record.and_then(end);
        let recorded = record.and_then(|record| record.workspace.as_deref());
        let workspace = recorded.or(workspace);
        let (state, seen_in) = match ended {
            Some(end) => (TurnState::Ended(end), None),
            None => live(turn_id, workspace, record.is_some(), pool),
        };
        Self {
            turn_id: turn_id.to_owned(),
            workspace: workspace.map(str::to_owned).or(seen_in),
            state,
            attempts: record.map(attempts).unwrap_or_default(),
            cancel_requested: record.is_some_and(|record| record.cancel.is_some()),
        }
    }
}

/// Where the pool reports the turn, with the workspace if it was found there.
fn live(
    turn_id: &str,
    workspace: Option<&str>,
    recorded: bool,
    pool: Option<&PoolStatus>,
) -> (TurnState, Option<String>) {
    let Some(pool) = pool else {
        let state = match recorded {
            true => TurnState::Started,
            false => TurnState::Unknown {
                why: "no record of it, and the pool was not heard".to_owned(),
            },
        };
        return (state, None);
    };
    let meant = |name: &str| workspace.is_none_or(|wanted| wanted == name);
    for worker in &pool.workers {
        for turn in &worker.running {
            if turn.turn_id == turn_id && meant(&turn.workspace) {
                let state = TurnState::Running {
                    worker: worker.name.clone(),
                    attempt: turn.attempt,
                    since: turn.started_at,
                    spent: turn.spent,
                };
                return (state, Some(turn.workspace.clone()));
            }
        }
    }
    let lines = pool.backlog.iter().flat_map(|backlog| &backlog.top);
    for line in lines.into_iter().filter(|line| meant(&line.workspace)) {
        let place = line.next.iter().position(|id| id == turn_id);
        // Of a turn with a known workspace, a longer line may hold it.
        let behind = workspace.is_some() && line.turns > line.next.len() as u64;
        if place.is_none() && !behind {
            continue;
        }
        let state = TurnState::Waiting {
            place: place.map(|place| place as u64 + 1),
            of: line.turns,
            why: why(pool, &line.workspace),
        };
        return (state, Some(line.workspace.clone()));
    }
    if recorded {
        return (TurnState::Started, None);
    }
    let why = match &pool.backlog {
        None => "no record of it, and no active sequencer reports what waits",
        Some(backlog)
            if backlog.workspaces > backlog.top.len() as u64
                || backlog.beyond > 0
                || pool.turns_not_held != Some(0)
                || backlog
                    .top
                    .iter()
                    .any(|line| line.turns > line.next.len() as u64) =>
        {
            "no record of it; it may wait behind the turns that the sequencer names, or never came"
        }
        Some(_) => "no record of it, and it does not wait: it never came, or was forgotten",
    };
    (
        TurnState::Unknown {
            why: why.to_owned(),
        },
        None,
    )
}

fn attempts(record: &TurnRecord) -> Vec<AttemptReport> {
    let history = &record.history;
    let last = history.started.iter().map(|started| started.attempt).max();
    let finished = history.finished.as_ref().map(|finished| finished.attempt);
    let end = |attempt: u32| {
        if finished == Some(attempt) {
            AttemptEnd::Finished
        } else if history.returned.contains(&attempt) {
            AttemptEnd::Returned
        } else if Some(attempt) < last || finished.is_some() {
            AttemptEnd::Lost
        } else {
            AttemptEnd::Open
        }
    };
    let report = |started: &crate::workspace::Started| AttemptReport {
        attempt: started.attempt,
        worker: started.worker.clone(),
        started_at: started.at,
        end: end(started.attempt),
    };
    history.started.iter().map(report).collect()
}

fn end(record: &TurnRecord) -> Option<EndReport> {
    if let Some(finished) = &record.history.finished {
        let ran = record.history.started.iter();
        let named = ran
            .map(|started| started.attempt)
            .any(|one| one == finished.attempt);
        let report = EndReport {
            outcome: finished.stop_reason,
            at: finished.at,
            by: None,
            code: finished.code,
            reason: None,
            error: None,
            model: None,
            usage: finished.usage,
            duration_ms: None,
            thread_id: finished.thread.as_ref().map(|thread| thread.id.clone()),
            superseded_by: None,
        };
        let by = record.claim.by.clone();
        return Some(EndReport {
            by: (!named && record.history.started.is_empty()).then_some(by),
            ..ended(report, &finished.ending)
        });
    }
    let ending = record.claim.verdict.ending()?;
    let report = EndReport {
        // What this version can't read is not known to have come to a good end.
        outcome: StopReason::Error,
        at: record.claim.made_at,
        by: Some(record.claim.by.clone()),
        code: None,
        reason: None,
        error: None,
        model: None,
        usage: None,
        duration_ms: None,
        thread_id: None,
        superseded_by: None,
    };
    Some(ended(report, ending))
}

/// With what the turn's last events report.
fn ended(mut report: EndReport, events: &[SealedEvent]) -> EndReport {
    for event in events {
        match serde_json::from_str::<TurnEvent>(&event.json).map(|event| event.body) {
            Ok(EventBody::Error { error }) => {
                report.code = Some(error.code);
                report.reason = Some(error.reason);
                report.error = Some(error.message);
            }
            Ok(EventBody::MessageEnd {
                stop_reason,
                model,
                duration_ms,
                thread_id,
                superseded_by,
                usage,
                ..
            }) => {
                report.outcome = stop_reason;
                report.model = model;
                report.duration_ms = Some(duration_ms);
                report.thread_id = thread_id.or(report.thread_id);
                report.superseded_by = superseded_by;
                report.usage = usage.or(report.usage);
            }
            _ => {}
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::messages::{About, BacklogReport, LineReport, Running};
    use crate::event::TurnError;
    use crate::operator::WorkerStatus;
    use crate::request::{Limits, Properties, TurnRequest};
    use crate::turn::simple_ending;
    use crate::workspace::{Claim, Finished, Started, TurnHistory, Verdict};

    fn time() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn claim(verdict: Verdict) -> Claim {
        Claim {
            verdict,
            fingerprint: 0,
            made_at: time(),
            by: "seq-1".to_owned(),
        }
    }

    fn record(claim: Claim, history: TurnHistory) -> TurnRecord {
        TurnRecord {
            workspace: Some("acme/a".to_owned()),
            claim,
            history,
            cancel: None,
        }
    }

    fn ending() -> Vec<SealedEvent> {
        let request =
            br#"{"turn_id":"t","workspace":"acme/a","messages":[{"role":"user","content":"hi"}]}"#;
        let request =
            TurnRequest::parse(request, &Limits::accepted(), &Properties::default()).unwrap();
        let error = TurnError {
            code: ErrorCode::TurnFailed,
            message: "no login".to_owned(),
            reason: Reason::Auth,
            retryable: false,
        };
        simple_ending(&request, StopReason::Error, Some(error))
    }

    fn started(attempt: u32) -> Started {
        Started {
            turn_id: "t".to_owned(),
            attempt,
            fingerprint: 0,
            at: time(),
            worker: format!("w-{attempt}"),
            thread: None,
            fence: None,
        }
    }

    fn pool(running: Vec<Running>, top: Vec<LineReport>) -> PoolStatus {
        PoolStatus {
            workers: vec![WorkerStatus {
                name: "w-1".to_owned(),
                version: String::new(),
                slots: 4,
                busy: running.len(),
                about: About::default(),
                running,
            }],
            backlog: Some(BacklogReport {
                limit: 10,
                turns: 9,
                waiting: 9,
                beyond: 0,
                workspaces: top.len() as u64,
                oldest: None,
                stuck: Vec::new(),
                top,
            }),
            ..PoolStatus::default()
        }
    }

    #[test]
    fn an_ended_turn_has_its_error_and_each_attempt_with_its_worker() {
        let finished = Finished {
            turn_id: "t".to_owned(),
            attempt: 3,
            at: time(),
            stop_reason: StopReason::Error,
            code: Some(ErrorCode::TurnFailed),
            usage: None,
            thread: None,
            unconfirmed: Vec::new(),
            ending: ending(),
        };
        let history = TurnHistory {
            started: vec![started(1), started(2), started(3)],
            returned: vec![2],
            finished: Some(finished),
        };
        let record = record(claim(Verdict::Run), history);
        let report = TurnReport::of("t", None, Some(&record), None);
        let TurnState::Ended(end) = &report.state else {
            panic!("{report:?}");
        };
        assert_eq!(
            (end.code, end.reason),
            (Some(ErrorCode::TurnFailed), Some(Reason::Auth))
        );
        assert_eq!(end.error.as_deref(), Some("no login"));
        let attempts: Vec<_> = report
            .attempts
            .iter()
            .map(|one| (&*one.worker, one.end))
            .collect();
        assert_eq!(
            attempts,
            [
                ("w-1", AttemptEnd::Lost),
                ("w-2", AttemptEnd::Returned),
                ("w-3", AttemptEnd::Finished)
            ]
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["state"], &json["outcome"]),
            (&"ended".into(), &"error".into())
        );
    }

    #[test]
    fn a_turn_that_never_ran_is_described_by_its_claim() {
        let record = record(
            claim(Verdict::Unrun { ending: ending() }),
            TurnHistory::default(),
        );
        let report = TurnReport::of("t", None, Some(&record), None);
        let TurnState::Ended(end) = report.state else {
            panic!("{report:?}");
        };
        assert_eq!(
            (end.by.as_deref(), end.outcome),
            (Some("seq-1"), StopReason::Error)
        );
    }

    #[test]
    fn a_live_turn_is_found_where_the_pool_reports_it() {
        let running = Running {
            workspace: "acme/a".to_owned(),
            turn_id: "t".to_owned(),
            attempt: 2,
            started_at: time(),
            spent: None,
        };
        let line = LineReport {
            workspace: "acme/a".to_owned(),
            turns: 3,
            running: true,
            next: vec!["t".to_owned(), "u".to_owned()],
            ..LineReport::default()
        };
        let pool = pool(vec![running], vec![line]);
        let open = TurnHistory {
            started: vec![started(1), started(2)],
            ..TurnHistory::default()
        };
        let known = record(claim(Verdict::Run), open);
        let report = TurnReport::of("t", None, Some(&known), Some(&pool));
        assert!(matches!(
            report.state,
            TurnState::Running { attempt: 2, .. }
        ));
        assert_eq!(report.attempts[1].end, AttemptEnd::Open);

        let report = TurnReport::of("u", None, None, Some(&pool));
        assert_eq!(report.workspace.as_deref(), Some("acme/a"));
        let why = "t runs on w-1".to_owned();
        let (place, of) = (Some(2), 3);
        assert_eq!(report.state, TurnState::Waiting { place, of, why });

        let report = TurnReport::of("v", None, None, Some(&pool));
        let TurnState::Unknown { why } = report.state else {
            panic!("{report:?}");
        };
        assert!(why.contains("may wait behind"), "{why}");
        let report = TurnReport::of("t", None, Some(&known), None);
        assert_eq!(report.state, TurnState::Started);
    }
}
