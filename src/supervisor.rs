//! The long-lived tasks of a process, and what becomes of the process when one
//! of them dies.
//!
//! A dead process loses no work: another one of the pool takes its work. A
//! process that lives on without one of its parts costs turns. So a panic of a
//! part, or an end that was not asked for, ends the process in order.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fault;

/// How a process is brought to an end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take no more.
    pub drain: CancellationToken,
    /// Wait no longer for what runs.
    pub cut: CancellationToken,
    /// Everything is settled: let go of the last connections.
    pub end: CancellationToken,
}

/// A long-lived part of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartName {
    /// Keeps the durable marks of cancels, and looks for missed ones.
    CancelMarks,
    /// Keeps all connections on one broker.
    Connections,
    /// Hears cancels for the worker; one for each connection.
    Control,
    PrivateOffers,
    /// Reports the drain once it starts.
    Drain,
    EventLog,
    Heartbeats,
    /// Looks for workspaces that are free again.
    HeldWorkspaces,
    Host,
    Http,
    /// Looks up what operators have paused.
    Pauses,
    /// Compares this process with the others of the pool.
    Pool,
    Publisher,
    /// Ends, and the process with it, when the workspace root was mounted again.
    Root,
    Sequencer,
    Signals,
    /// Serves one slot of the worker; one for each slot.
    Slot,
    /// Restores deleted exchanges, bindings and queues; one for each connection.
    Topology,
    /// Ends a sequencer session that hangs; one for each session.
    Watchdog,
    Worker,
}

impl PartName {
    pub const ALL: [Self; 20] = [
        Self::CancelMarks,
        Self::Connections,
        Self::Control,
        Self::PrivateOffers,
        Self::Drain,
        Self::EventLog,
        Self::Heartbeats,
        Self::HeldWorkspaces,
        Self::Host,
        Self::Http,
        Self::Pauses,
        Self::Pool,
        Self::Publisher,
        Self::Root,
        Self::Sequencer,
        Self::Signals,
        Self::Slot,
        Self::Topology,
        Self::Watchdog,
        Self::Worker,
    ];

    /// As logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CancelMarks => "cancel_marks",
            Self::Connections => "connections",
            Self::Control => "control",
            Self::PrivateOffers => "private_offers",
            Self::Drain => "drain",
            Self::EventLog => "event_log",
            Self::Heartbeats => "heartbeats",
            Self::HeldWorkspaces => "held_workspaces",
            Self::Host => "host",
            Self::Http => "http",
            Self::Pauses => "pauses",
            Self::Pool => "pool",
            Self::Publisher => "publisher",
            Self::Root => "root",
            Self::Sequencer => "sequencer",
            Self::Signals => "signals",
            Self::Slot => "slot",
            Self::Topology => "topology",
            Self::Watchdog => "watchdog",
            Self::Worker => "worker",
        }
    }

    /// Whether running turns cannot be waited for without it: no event would be
    /// confirmed, no end recorded, no grace time would end, or no task would wait for them.
    fn is_needed_to_drain(self) -> bool {
        matches!(
            self,
            Self::Publisher | Self::Root | Self::Signals | Self::Worker
        )
    }
}

impl std::fmt::Display for PartName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Owns a process's parts. Clones are the same.
#[derive(Debug, Clone)]
pub struct Supervisor(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    shutdown: Shutdown,
    /// The first one that failed.
    failed: OnceLock<PartName>,
}

impl Supervisor {
    pub fn new(shutdown: Shutdown) -> Self {
        Self(Arc::new(Owner {
            shutdown,
            failed: OnceLock::new(),
        }))
    }

    /// The part that has failed, if any has.
    pub fn failed(&self) -> Option<PartName> {
        self.0.failed.get().copied()
    }

    /// Runs a part in a task of its own. It must not end before `until`.
    pub fn spawn(
        &self,
        part: PartName,
        until: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (supervisor, until) = (self.clone(), until.clone());
        tokio::spawn(async move {
            let ended = supervisor.guard(part, work).await;
            if ended.is_some() && !until.is_cancelled() {
                supervisor.fail(part, "it ended unasked");
            }
        })
    }

    /// Runs a part with an end that its caller handles. Returns `None` if it has
    /// panicked; then the process ends.
    pub async fn guard<T>(&self, part: PartName, work: impl Future<Output = T>) -> Option<T> {
        let work = async {
            tokio::select! {
                biased;
                () = fault::death_of("part.dies", part.as_str()) => None,
                done = work => Some(done),
            }
        };
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(done) => done,
            Err(panic) => {
                self.fail(part, &format!("it panicked: {}", message(&*panic)));
                None
            }
        }
    }

    fn fail(&self, part: PartName, found: &str) {
        let Owner { shutdown, failed } = &*self.0;
        let part_name = part.as_str();
        tracing::error!(
            part = part_name,
            found,
            "a part of the process failed; ending the process"
        );
        // It fails where another was first, which is the one to name.
        let _ = failed.set(part);
        shutdown.drain.cancel();
        if part.is_needed_to_drain() {
            shutdown.cut.cancel();
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::future::pending;

    use super::*;

    fn supervisor() -> (Shutdown, Supervisor) {
        let shutdown = Shutdown::default();
        (shutdown.clone(), Supervisor::new(shutdown))
    }

    #[test]
    fn all_names_every_part_once() {
        let names: BTreeSet<_> = PartName::ALL.iter().map(|part| part.as_str()).collect();
        assert_eq!(names.len(), PartName::ALL.len());
    }

    #[tokio::test]
    async fn a_panic_of_a_part_drains_the_process() {
        let (shutdown, supervisor) = supervisor();
        let panics = async { panic!("out of ideas") };
        let task = supervisor.spawn(PartName::Heartbeats, &shutdown.end, panics);
        task.await.unwrap();
        assert_eq!(supervisor.failed(), Some(PartName::Heartbeats));
        assert!(shutdown.drain.is_cancelled() && !shutdown.cut.is_cancelled());
    }

    #[tokio::test]
    async fn an_end_that_was_not_asked_for_is_a_failure() {
        let (shutdown, supervisor) = supervisor();
        let task = supervisor.spawn(PartName::Host, &shutdown.end, async {});
        task.await.unwrap();
        assert_eq!(supervisor.failed(), Some(PartName::Host));
    }

    #[tokio::test]
    async fn an_end_that_was_asked_for_is_no_error() {
        let (shutdown, supervisor) = supervisor();
        shutdown.end.cancel();
        supervisor
            .spawn(PartName::Host, &shutdown.end, async {})
            .await
            .unwrap();
        let aborted = supervisor.spawn(PartName::Http, &CancellationToken::new(), pending());
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        let done = supervisor.guard(PartName::Control, async { 7 });
        assert_eq!(done.await, Some(7));
        assert_eq!(supervisor.failed(), None);
        assert!(!shutdown.drain.is_cancelled());
    }

    /// Without it, the drain could not come to its end.
    #[tokio::test]
    async fn a_part_that_a_drain_needs_cuts_it_short() {
        for part in PartName::ALL {
            let (shutdown, supervisor) = supervisor();
            let _: Option<()> = supervisor.guard(part, async { panic!() }).await;
            assert!(shutdown.drain.is_cancelled(), "{part}");
            let cut = [
                PartName::Publisher,
                PartName::Root,
                PartName::Signals,
                PartName::Worker,
            ]
            .contains(&part);
            assert_eq!(shutdown.cut.is_cancelled(), cut, "{part}");
        }
    }

    #[tokio::test]
    async fn the_first_failure_is_the_one_to_name() {
        let (_, supervisor) = supervisor();
        for part in [PartName::Worker, PartName::Slot] {
            let _: Option<()> = supervisor.guard(part, async { panic!() }).await;
        }
        assert_eq!(supervisor.failed(), Some(PartName::Worker));
    }
}
