//! Ends turns that don't run: cancelled or interrupted while they waited, one
//! too many, not to wait at all, not started in time, or under an id that
//! another workspace's turn has.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::actions::Actor;
use super::queue::{ClaimAnswer, QueuedTurn, Verdict as Wanted};
use super::remote_records::{ANSWER_LIMIT, unexpected};
use crate::amqp::dead_letter::Refusal;
use crate::amqp::messages::{RecordsAnswer, RecordsTask};
use crate::error::with_sources;
use crate::event::{ErrorCode, Reason, SealedEvent, StopReason, TurnError};
use crate::fault;
use crate::request::{Limits, Properties, TurnRequest};
use crate::trace::TraceContext;
use crate::turn::{NotStarted, cancelled_ending, lost_ending, simple_ending};
use crate::workspace::{
    CancelMark, Claim, ClaimOutcome, JournalEnd, Root, StateError, Verdict, Workspace,
    WorkspaceError,
};

/// What the records say, once the verdict was tried.
enum Decided {
    Ended {
        events: Vec<SealedEvent>,
        /// Why the request was refused: it goes to the dead queue.
        refused: Option<TurnError>,
        /// Decided by us, so that it is not counted yet.
        now: Option<Decision>,
        /// Not to be published: another turn's readers would get it.
        silent: bool,
    },
    Runs,
    /// All that the turn would have had to wait for has ended.
    AllEnded,
    /// What was to supersede the turn has been decided itself.
    Spent,
}

/// How the turn ends.
#[derive(Debug, Clone, PartialEq)]
struct Decision {
    stop_reason: StopReason,
    error: Option<TurnError>,
}

impl Actor {
    /// By the records of `disk`. `other`: that of the workspace which the verdict names.
    pub(super) async fn decide(
        &self,
        turn: &Arc<QueuedTurn>,
        wanted: Wanted,
        disk: Uuid,
        other: Option<Uuid>,
    ) -> ClaimAnswer {
        if let Wanted::HostLost { host } = &wanted {
            return self.end_lost(turn, host).await;
        }
        let decided = self.decide_there(turn, wanted, disk, other).await;
        decided.unwrap_or_else(|error| {
            let (turn_id, workspace) = (&*turn.turn_id, &*turn.workspace);
            tracing::warn!(
                error,
                turn_id,
                workspace,
                "can't decide a turn's fate on its workspace's disk yet"
            );
            ClaimAnswer::Failed
        })
    }

    async fn decide_there(
        &self,
        turn: &Arc<QueuedTurn>,
        verdict: Wanted,
        disk: Uuid,
        other: Option<Uuid>,
    ) -> Result<ClaimAnswer, String> {
        let other_ended = match &verdict {
            Wanted::IdTaken { workspace } if other != Some(disk) => Some(match other {
                Some(other) if self.is_here(other) => {
                    let (root, id) = (self.records.root.clone(), workspace.to_string());
                    let turn_id = turn.turn_id.to_string();
                    let known = self.records.pool.journal_end(workspace);
                    let look = move || has_ended(&root, &id, &turn_id, known.as_ref());
                    let looked = tokio::task::spawn_blocking(look).await;
                    let looked = looked.map_err(|error| error.to_string())?;
                    looked.map_err(|error| with_sources(&error))?
                }
                other => self.has_ended_on(other, workspace, &turn.turn_id).await?,
            }),
            _ => None,
        };
        if self.is_here(disk) {
            return Ok(self.decide_here(turn, verdict, other_ended).await);
        }
        let request = String::from_utf8(turn.request.to_vec()).map_err(|it| it.to_string())?;
        let task = RecordsTask::Decide {
            request,
            verdict,
            other_ended,
        };
        match self.ask(disk, task, ANSWER_LIMIT).await? {
            RecordsAnswer::Decided(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// The turn may have been started on a disk that is gone for good: it ends, and
    /// no records have its end.
    async fn end_lost(&self, turn: &Arc<QueuedTurn>, host: &str) -> ClaimAnswer {
        let limits = Limits::accepted();
        let Ok(request) = TurnRequest::parse(&turn.request, &limits, &Properties::default()) else {
            return ClaimAnswer::Failed;
        };
        let error = workspace_lost(&turn.workspace, host);
        let end = lost_ending(&request, error.clone());
        let _place = self.place_for_ending().await;
        if !self.publish_events(end.clone()).await {
            return ClaimAnswer::Failed;
        }
        self.lost_ends.keep(&turn.workspace, &turn.turn_id, end);
        let tenant = turn.tenant.as_deref();
        self.metrics
            .turn_decided(tenant, StopReason::Error, Some(&error));
        tracing::warn!(
            turn_id = &*turn.turn_id,
            workspace = &*turn.workspace,
            host,
            "ended a turn of a workspace on a lost disk"
        );
        ClaimAnswer::Won
    }

    /// By the records of this process's root. `other_ended`: whether the turn that the
    /// verdict names has ended, if that is of another disk.
    pub(super) async fn decide_here(
        &self,
        turn: &Arc<QueuedTurn>,
        wanted: Wanted,
        other_ended: Option<bool>,
    ) -> ClaimAnswer {
        let (root, by, turn_) = (
            self.records.root.clone(),
            self.records.by.clone(),
            Arc::clone(turn),
        );
        // The lane first: those who wait for it must not have all permits.
        let lane = self.lanes.enter(Some(&turn.workspace)).await;
        let _place = self.place_for_ending().await;
        let decided = match lane {
            Ok(lane) => {
                let pool = self.records.pool.clone();
                let known = move |workspace: &str| pool.journal_end(workspace);
                lane.run(move || claim(&root, &turn_, wanted, by, other_ended, known))
                    .await
            }
            Err(error) => Err(error),
        };
        let decided = match decided {
            Ok(Ok(decided)) => decided,
            // It is tried again.
            Ok(Err(error)) if error.is_old_read() => {
                let error = with_sources(&error);
                let (turn_id, workspace) = (&*turn.turn_id, &*turn.workspace);
                tracing::warn!(
                    error,
                    turn_id,
                    workspace,
                    "reading the records of a workspace again"
                );
                return ClaimAnswer::Failed;
            }
            Ok(Err(error)) => {
                self.not_recorded(&error).await;
                let error = with_sources(&error);
                tracing::error!(
                    error,
                    turn_id = &*turn.turn_id,
                    "can't decide a turn's fate yet"
                );
                return ClaimAnswer::Failed;
            }
            Err(error) => {
                let error = with_sources(&error);
                let (turn_id, workspace) = (&*turn.turn_id, &*turn.workspace);
                tracing::error!(
                    error,
                    turn_id,
                    workspace,
                    "failed to record a verdict; will retry"
                );
                return ClaimAnswer::Failed;
            }
        };
        let (events, refused, now, silent) = match decided {
            Decided::Ended {
                events,
                refused,
                now,
                silent,
            } => (events, refused, now, silent),
            Decided::Runs => {
                let turn_id = &*turn.turn_id;
                tracing::debug!(turn_id, "the turn is not ended here: a worker has it");
                return ClaimAnswer::AlreadyRun;
            }
            Decided::AllEnded => return ClaimAnswer::AllEnded,
            Decided::Spent => return ClaimAnswer::Spent,
        };
        fault::at("sequencer.claimed");
        if let Some(Decision { stop_reason, error }) = &now {
            // Only here: what follows may have to be tried again.
            match &refused {
                Some(error) => self.metrics.request_rejected(error.code),
                None => {
                    let tenant = turn.tenant.as_deref();
                    self.metrics
                        .turn_decided(tenant, *stop_reason, error.as_ref());
                }
            }
            tracing::info!(
                turn_id = &*turn.turn_id,
                workspace = &*turn.workspace,
                tenant = turn.tenant.as_deref(),
                trace_id = (events.first())
                    .and_then(|event| event.trace.as_deref())
                    .map(TraceContext::trace_id),
                outcome = stop_reason.as_str(),
                code = error.as_ref().map(|error| error.code.as_str()),
                "ended a waiting turn"
            );
            if silent {
                tracing::warn!(
                    turn_id = &*turn.turn_id,
                    workspace = &*turn.workspace,
                    "refused a request, unanswered: a turn of another workspace has its id"
                );
            }
        }
        if let Some(error) = &refused {
            let refusal = Refusal {
                request: &turn.request,
                turn_id: Some(&turn.turn_id),
                code: error.code,
                message: &error.message,
            };
            if !self.bury(refusal).await {
                return ClaimAnswer::Failed;
            }
        }
        let told = silent || self.publish_events(events).await;
        fault::at("sequencer.told");
        match (told, now) {
            (false, _) => ClaimAnswer::Failed,
            (true, Some(_)) => ClaimAnswer::Won,
            (true, None) => ClaimAnswer::AlreadyEnded,
        }
    }
}

/// `known`: how far the journals of workspaces are known to reach.
fn claim(
    root: &Root,
    turn: &QueuedTurn,
    wanted: Wanted,
    by: String,
    other_ended: Option<bool>,
    known: impl Fn(&str) -> Option<JournalEnd>,
) -> Result<Decided, NotStarted> {
    let claims = match root.workspace(&turn.workspace) {
        Ok(workspace) => workspace.claims().clone(),
        Err(WorkspaceError::Rejected { .. }) => match &wanted {
            // The worker's rejection would be published.
            Wanted::IdTaken { .. } => root.rejected_in(&turn.workspace)?,
            // It has no place for a claim. The worker that is offered the turn
            // ends it as rejected; tried again here, it would stay in line for ever.
            _ => return Ok(Decided::Runs),
        },
        Err(error) => return Err(error.into()),
    };
    let limits = Limits::accepted();
    // What the queue holds is our own canonical form, which parses.
    let Ok(request) = TurnRequest::parse(&turn.request, &limits, &Properties::default()) else {
        return Ok(Decided::Runs);
    };
    let mut mark = CancelMark::default();
    let (stop_reason, error) = match &wanted {
        Wanted::Cancelled => {
            // First, for the next attempt of a turn that turns out to run.
            mark = claims.mark_cancelled(&turn.turn_id, None)?;
            fault::at("sequencer.marked");
            (StopReason::Cancelled, None)
        }
        Wanted::Superseded { by } => {
            if claims.find(by)?.is_some() {
                return Ok(Decided::Spent);
            }
            mark = claims.mark_cancelled(&turn.turn_id, Some(by))?;
            fault::at("sequencer.superseded");
            (StopReason::Cancelled, None)
        }
        Wanted::Busy { ahead } => {
            let known = known(&turn.workspace);
            if all_have_ended(&root.workspace(&turn.workspace)?, ahead, known.as_ref())? {
                return Ok(Decided::AllEnded);
            }
            (StopReason::Error, Some(busy(&turn.workspace)))
        }
        Wanted::IdTaken { workspace } => {
            let ended = match other_ended {
                Some(ended) => ended,
                None => has_ended(root, workspace, &turn.turn_id, known(workspace).as_ref())?,
            };
            if ended {
                return Ok(Decided::AllEnded);
            }
            (StopReason::Error, Some(id_taken(&turn.turn_id)))
        }
        Wanted::BacklogFull => (StopReason::Error, Some(backlog_full(&turn.workspace))),
        Wanted::Expired => (StopReason::Error, Some(expired(turn.start_within))),
        // Not by records.
        Wanted::HostLost { .. } => return Ok(Decided::Runs),
    };
    let id_taken = matches!(wanted, Wanted::IdTaken { .. });
    // What the request itself asked for is no operator's concern.
    let is_refusal = id_taken || wanted == Wanted::BacklogFull;
    let refused = error.clone().filter(|_| is_refusal);
    let ending = match stop_reason {
        StopReason::Cancelled => cancelled_ending(&request, mark.superseded_by),
        _ => simple_ending(&request, stop_reason, error.clone()),
    };
    let verdict = match &refused {
        None => Verdict::Unrun {
            ending: ending.clone(),
        },
        Some(error) => Verdict::Rejected {
            code: error.code,
            ending: ending.clone(),
        },
    };
    let claim = Claim {
        verdict,
        fingerprint: request.fingerprint(),
        made_at: Timestamp::now(),
        by,
    };
    Ok(match claims.claim(&turn.turn_id, &claim)? {
        ClaimOutcome::Won => Decided::Ended {
            events: ending,
            refused,
            now: Some(Decision { stop_reason, error }),
            silent: id_taken,
        },
        ClaimOutcome::Lost(other) => match other.verdict.ending() {
            Some(events) => {
                // By this sequencer a moment ago, or by one that died: the
                // request may not have got to the dead queue.
                let refused = refused.filter(|error| refuses(&other.verdict, error.code));
                Decided::Ended {
                    events: events.to_vec(),
                    // An ending from before the other turn came is published as ever.
                    silent: id_taken && refused.is_some(),
                    refused,
                    now: None,
                }
            }
            None => Decided::Runs,
        },
    })
}

fn all_have_ended(
    workspace: &Workspace,
    turns: &[Arc<str>],
    known: Option<&JournalEnd>,
) -> Result<bool, StateError> {
    for turn_id in turns {
        if !workspace.has_ended(turn_id, known)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// In a workspace that can't be, no turn's end is known.
/// `known`: how far its journal is known to reach.
pub(super) fn has_ended(
    root: &Root,
    workspace: &str,
    turn_id: &str,
    known: Option<&JournalEnd>,
) -> Result<bool, NotStarted> {
    match root.workspace(workspace) {
        Ok(workspace) => Ok(workspace.has_ended(turn_id, known)?),
        Err(WorkspaceError::Rejected { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn refuses(verdict: &Verdict, code: ErrorCode) -> bool {
    matches!(verdict, Verdict::Rejected { code: because, .. } if *because == code)
}

fn backlog_full(workspace: &str) -> TurnError {
    TurnError {
        code: ErrorCode::BacklogFull,
        message: format!(
            "workspace `{workspace}` has as many waiting turns as one workspace may have"
        ),
        reason: Reason::Unknown,
        retryable: true,
    }
}

/// Under a code that older workers know, too: they read the claim.
fn id_taken(turn_id: &str) -> TurnError {
    TurnError {
        code: ErrorCode::RequestInvalid,
        message: format!(
            "turn_id: found \"{turn_id}\", which a turn of another workspace has that has not ended, \
             expected an id that no other turn has"
        ),
        reason: Reason::Unknown,
        retryable: false,
    }
}

fn busy(workspace: &str) -> TurnError {
    TurnError {
        code: ErrorCode::Busy,
        message: format!(
            "workspace `{workspace}` has a turn that has not ended, and this one was not to wait"
        ),
        reason: Reason::Unknown,
        retryable: true,
    }
}

fn workspace_lost(workspace: &str, host: &str) -> TurnError {
    TurnError {
        code: ErrorCode::WorkspaceLost,
        message: format!(
            "workspace `{workspace}` was on the disk of host {host}, which is gone for good by an operator's word; \
             the turn may have been started there"
        ),
        reason: Reason::Unknown,
        retryable: false,
    }
}

fn expired(limit: Option<Duration>) -> TurnError {
    TurnError {
        code: ErrorCode::Expired,
        message: format!(
            "the turn could not start within the {} s that it asked for",
            limit.unwrap_or_default().as_secs()
        ),
        reason: Reason::Unknown,
        retryable: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::OnBusy;

    fn claim(
        root: &Root,
        turn: &QueuedTurn,
        wanted: Wanted,
        by: String,
        other_ended: Option<bool>,
    ) -> Result<Decided, NotStarted> {
        super::claim(root, turn, wanted, by, other_ended, |_| None)
    }

    fn turn(workspace: &str) -> QueuedTurn {
        let request = format!(
            r#"{{"turn_id":"t","workspace":"{workspace}","messages":[{{"role":"user","content":"hi"}}]}}"#
        );
        QueuedTurn {
            workspace: workspace.into(),
            turn_id: "t".into(),
            fingerprint: 0,
            start_within: Some(Duration::from_secs(7)),
            on_busy: OnBusy::Enqueue,
            request: request.into_bytes().into(),
            enqueued_at: None,
            tenant: None,
        }
    }

    #[test]
    fn g5_a_cancelled_turn_whose_workspace_can_not_be_is_left_to_a_worker() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.workspace("a").unwrap();
        for wanted in [Wanted::Cancelled, Wanted::BacklogFull, Wanted::Expired] {
            let decided =
                claim(&root, &turn("a/inside"), wanted.clone(), "me".into(), None).unwrap();
            assert!(matches!(decided, Decided::Runs), "{wanted:?}");
            let decided = claim(&root, &turn("b"), wanted.clone(), "me".into(), None).unwrap();
            assert!(!matches!(decided, Decided::Runs), "{wanted:?}");
        }
    }

    fn run_claim() -> Claim {
        Claim {
            verdict: Verdict::Run,
            fingerprint: 0,
            made_at: Timestamp::now(),
            by: "w".into(),
        }
    }

    #[test]
    fn g5_who_is_busy_is_decided_by_the_records_of_those_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let workspace = root.workspace("a").unwrap();
        let decide = |ahead: &[&str]| {
            let ahead = ahead.iter().map(|id| Arc::from(*id)).collect();
            claim(&root, &turn("a"), Wanted::Busy { ahead }, "me".into(), None).unwrap()
        };
        let unrun = Claim {
            verdict: Verdict::Unrun { ending: Vec::new() },
            ..run_claim()
        };
        workspace.claims().claim("unrun", &unrun).unwrap();
        workspace.claims().claim("runs", &run_claim()).unwrap();
        assert!(matches!(decide(&["unrun"]), Decided::AllEnded));
        assert!(workspace.claims().find("t").unwrap().is_none());
        for ahead in ["runs", "waits"] {
            let decided = decide(&["unrun", ahead]);
            let Decided::Ended {
                refused: None,
                silent: false,
                ..
            } = decided
            else {
                panic!("{ahead}: it is let in, or buried");
            };
        }
        // For good, even if others have ended since.
        workspace.claims().claim("waits", &unrun).unwrap();
        let decided = decide(&["runs"]);
        assert!(matches!(decided, Decided::Ended { now: None, .. }));
        // One that runs was let in.
        let claims = root.workspace("b").unwrap().claims().clone();
        claims.claim("t", &run_claim()).unwrap();
        let ahead = vec!["waits".into()];
        let decided = claim(&root, &turn("b"), Wanted::Busy { ahead }, "me".into(), None);
        assert!(matches!(decided.unwrap(), Decided::Runs));
    }

    /// A network file system may show the records as they were before that turn has ended.
    #[test]
    fn g4_no_turn_is_refused_by_records_that_are_older_than_known() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let workspace = root.workspace("a").unwrap();
        workspace.claims().claim("ahead", &run_claim()).unwrap();
        let lock = workspace.try_lock().unwrap().unwrap();
        let journal = lock.open_journal(None).unwrap();
        let seen = journal.end().unwrap();
        drop(journal);
        let later = JournalEnd {
            len: seen.len + 1,
            ..seen
        };
        let busy = || Wanted::Busy {
            ahead: vec!["ahead".into()],
        };
        let id_taken = || Wanted::IdTaken {
            workspace: "a".into(),
        };
        for wanted in [busy as fn() -> Wanted, id_taken] {
            let decide = |known| {
                let known = |workspace: &str| (workspace == "a").then_some(known);
                let (turn, by) = (turn("a"), "me".to_owned());
                super::claim(&root, &turn, wanted(), by, None, known)
            };
            let error = decide(later).err().expect("it is refused by old records");
            assert!(error.is_old_read(), "{error}");
            assert!(workspace.claims().find("t").unwrap().is_none());
            assert!(matches!(decide(seen), Ok(Decided::Ended { .. })));
            std::fs::remove_file(workspace.state_dir().join("claims/t.claim")).unwrap();
        }
    }

    #[test]
    fn g5_a_turn_is_superseded_durably_and_only_by_one_that_is_not_decided() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let claims = root.workspace("a").unwrap().claims().clone();
        let supersede = |by: &str| {
            let by = by.into();
            claim(
                &root,
                &turn("a"),
                Wanted::Superseded { by },
                "me".into(),
                None,
            )
            .unwrap()
        };
        let unrun = Claim {
            verdict: Verdict::Unrun { ending: Vec::new() },
            ..run_claim()
        };
        claims.claim("ran", &run_claim()).unwrap();
        claims.claim("cancelled", &unrun).unwrap();
        for by in ["ran", "cancelled"] {
            assert!(matches!(supersede(by), Decided::Spent), "{by}");
            assert_eq!(claims.cancel_mark("t").unwrap(), None, "{by}");
        }
        let Decided::Ended { events, .. } = supersede("u") else {
            panic!("it goes on");
        };
        assert!(events[1].json.contains(r#""superseded_by":"u""#));
        // Later claims say the same.
        let Decided::Ended { events: again, .. } = supersede("v") else {
            panic!("it goes on");
        };
        assert_eq!(again, events);
        // One that runs has the mark, for its next attempt.
        let claims = root.workspace("b").unwrap().claims().clone();
        claims.claim("t", &run_claim()).unwrap();
        let by = "u".into();
        let decided = claim(
            &root,
            &turn("b"),
            Wanted::Superseded { by },
            "me".into(),
            None,
        );
        assert!(matches!(decided.unwrap(), Decided::Runs));
        let mark = claims.cancel_mark("t").unwrap().unwrap();
        assert_eq!(mark.superseded_by.as_deref(), Some("u"));
    }

    #[test]
    fn g5_a_turn_id_that_another_workspaces_turn_has_is_refused_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let other = root.workspace("other").unwrap();
        let refuse = |workspace: &str| {
            let wanted = Wanted::IdTaken {
                workspace: "other".into(),
            };
            claim(&root, &turn(workspace), wanted, "me".into(), None).unwrap()
        };
        let is_refused = |decided: &Decided, first: bool| {
            let Decided::Ended {
                events,
                refused: Some(error),
                now,
                silent: true,
            } = decided
            else {
                return false;
            };
            let says_why = events[1].json.contains("a turn of another workspace has");
            error.code == ErrorCode::RequestInvalid && now.is_some() == first && says_why
        };
        // Waiting or running; also where a worker would reject it, and publish that.
        for workspace in ["waits", "other/inside"] {
            assert!(is_refused(&refuse(workspace), true), "{workspace}");
            assert!(is_refused(&refuse(workspace), false), "{workspace}");
        }
        other.claims().claim("t", &run_claim()).unwrap();
        assert!(is_refused(&refuse("runs"), true));
        // A predecessor let it in, and it may run.
        let claims = root.workspace("let-in").unwrap().claims().clone();
        claims.claim("t", &run_claim()).unwrap();
        assert!(matches!(refuse("let-in"), Decided::Runs));
        // One that had ended before has an ending of its own.
        let ended = Claim {
            verdict: Verdict::Unrun { ending: Vec::new() },
            ..run_claim()
        };
        let claims = root.workspace("ended").unwrap().claims().clone();
        claims.claim("t", &ended).unwrap();
        let Decided::Ended {
            refused: None,
            now: None,
            silent: false,
            ..
        } = refuse("ended")
        else {
            panic!("its own ending is lost");
        };
    }

    #[test]
    fn g5_a_turn_id_is_free_once_the_turn_that_had_it_is_recorded_to_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let ended = Claim {
            verdict: Verdict::Unrun { ending: Vec::new() },
            ..run_claim()
        };
        let other = root.workspace("other").unwrap();
        other.claims().claim("t", &ended).unwrap();
        let wanted = Wanted::IdTaken {
            workspace: "other".into(),
        };
        let decided = claim(&root, &turn("a"), wanted, "me".into(), None).unwrap();
        assert!(matches!(decided, Decided::AllEnded));
        let claims = root.workspace("a").unwrap().claims().clone();
        assert!(claims.find("t").unwrap().is_none());
    }

    #[test]
    fn g5_a_refusal_tried_again_is_the_same_counted_once_and_still_buried() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let decide = |wanted| match claim(&root, &turn("a"), wanted, "me".into(), None).unwrap() {
            Decided::Ended {
                events,
                refused,
                now,
                ..
            } => {
                let stop_reason = now.map(|now| now.stop_reason);
                (events, refused.map(|error| error.code), stop_reason)
            }
            _ => panic!("it runs"),
        };
        let full = Some(ErrorCode::BacklogFull);
        let (events, refused, now) = decide(Wanted::BacklogFull);
        assert_eq!((refused, now), (full, Some(StopReason::Error)));
        assert_eq!(decide(Wanted::BacklogFull), (events.clone(), full, None));
        // A cancel that comes later has no effect, and is no refusal.
        assert_eq!(decide(Wanted::Cancelled), (events, None, None));
    }

    #[test]
    fn g5_a_turn_that_runs_never_expires_and_one_that_expired_is_not_buried() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let expire = || claim(&root, &turn("a"), Wanted::Expired, "me".into(), None).unwrap();
        let Decided::Ended {
            events,
            refused: None,
            now: Some(decision),
            silent: false,
        } = expire()
        else {
            panic!("it does not expire");
        };
        assert_eq!(decision.stop_reason, StopReason::Error);
        assert_eq!(decision.error.unwrap().code, ErrorCode::Expired);
        assert!(events[1].json.contains("within the 7 s"), "{events:?}");
        let Decided::Ended {
            events: again,
            refused: None,
            now: None,
            silent: false,
        } = expire()
        else {
            panic!("it ends otherwise");
        };
        assert_eq!(again, events);
        let claims = root.workspace("b").unwrap().claims().clone();
        assert_eq!(claims.claim("t", &run_claim()).unwrap(), ClaimOutcome::Won);
        let decided = claim(&root, &turn("b"), Wanted::Expired, "me".into(), None).unwrap();
        assert!(matches!(decided, Decided::Runs));
    }
}
