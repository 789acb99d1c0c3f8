//! What the tests in here share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;

use super::claims::{Claim, Claims, Verdict};
use super::dir::Dir;
use super::journal::{Finished, LockedJournal, Started, ThreadEnd, ThreadStart};
use super::lock::WorkspaceLock;
use super::{Root, Workspace};
use crate::event::{SealedEvent, StopReason, Tokens, Usage};

pub(crate) fn time() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

pub(crate) fn store() -> (TempDir, Claims) {
    let tmp = tempfile::tempdir().unwrap();
    let claims = Claims::new(Dir::open(tmp.path()).unwrap());
    (tmp, claims)
}

pub(crate) fn root() -> (TempDir, Root) {
    let tmp = tempfile::tempdir().unwrap();
    let root = Root::open(&tmp.path().join("root")).unwrap();
    (tmp, root)
}

pub(crate) fn workspace() -> (TempDir, Workspace) {
    let (tmp, root) = root();
    let workspace = root.workspace("acme/website").unwrap();
    (tmp, workspace)
}

/// Other tests of this process start children, which hold copies of every
/// lock from their fork to their exec: so a free lock may take a moment.
pub(crate) fn lock(workspace: &Workspace) -> WorkspaceLock {
    let patience = Instant::now() + Duration::from_secs(600);
    loop {
        if let Some(lock) = workspace.try_lock().unwrap() {
            return lock;
        }
        assert!(Instant::now() < patience, "the lock gets free");
        std::thread::yield_now();
    }
}

pub(crate) fn journal(workspace: &Workspace) -> LockedJournal {
    lock(workspace).open_journal(None).unwrap()
}

pub(crate) fn run_claim() -> Claim {
    Claim {
        verdict: Verdict::Run,
        fingerprint: 7,
        made_at: time(),
        by: "w".into(),
    }
}

pub(crate) fn events(turn_id: &str, attempt: u32, count: u64) -> Vec<SealedEvent> {
    let turn_id: Arc<str> = turn_id.into();
    (0..count)
        .map(|seq| SealedEvent {
            turn_id: Arc::clone(&turn_id),
            attempt,
            seq,
            kind: "text_delta".into(),
            json: json!({"turn_id": turn_id, "seq": seq, "text": "a\n\"b\""})
                .to_string()
                .into(),
            trace: None,
        })
        .collect()
}

pub(crate) fn tokens(input_tokens: u64) -> Tokens {
    Tokens {
        input_tokens,
        ..Tokens::default()
    }
}

pub(crate) fn started(turn_id: &str, attempt: u32) -> Started {
    Started {
        turn_id: turn_id.into(),
        attempt,
        fingerprint: 7,
        at: time(),
        worker: "w".into(),
        thread: Some(ThreadStart {
            id: "0199a213-81c0-7800-8aa1-bbab2a035a53".into(),
            base: Some(tokens(10)),
            rollout_len: Some(100),
        }),
        fence: None,
    }
}

pub(crate) fn finished(turn_id: &str, attempt: u32, total: u64) -> Finished {
    Finished {
        turn_id: turn_id.into(),
        attempt,
        at: time(),
        stop_reason: StopReason::EndTurn,
        code: None,
        usage: Usage::of(Some(tokens(5)), None),
        thread: Some(ThreadEnd {
            id: "0199a213-81c0-7800-8aa1-bbab2a035a53".into(),
            total: Some(tokens(total)),
            unkept: None,
        }),
        unconfirmed: events(turn_id, attempt, 3),
        ending: events(turn_id, attempt, 1),
    }
}
