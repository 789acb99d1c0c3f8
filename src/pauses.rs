//! What is paused, as this process knows it: looked up with every heartbeat.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::conditions::{Condition, Conditions};
use crate::error::with_sources;
use crate::heartbeat::HEARTBEAT;
use crate::workspace::{Pause, PauseFile, Pauses};

/// Clones know the same.
#[derive(Debug, Clone)]
pub struct PauseWatch {
    /// `None` where the active sequencer reports what is paused.
    file: Option<PauseFile>,
    now: watch::Sender<Arc<Pauses>>,
    conditions: Conditions,
}

impl PauseWatch {
    /// Reads what is paused; waits for the disk.
    pub fn begin(file: PauseFile, conditions: Conditions) -> Self {
        let this = Self {
            file: Some(file),
            now: watch::Sender::default(),
            conditions,
        };
        this.look();
        this
    }

    /// Where each host has a disk of its own: what is paused is to be [`PauseWatch::set`].
    pub fn of_homes(conditions: Conditions) -> Self {
        Self {
            file: None,
            now: watch::Sender::default(),
            conditions,
        }
    }

    pub fn set(&self, pauses: Pauses) {
        let found = pauses.in_words();
        self.now.send_if_modified(|now| {
            let changed = **now != pauses;
            if changed {
                *now = Arc::new(pauses);
            }
            changed
        });
        self.conditions.set(Condition::Paused, "", found);
    }

    /// Looks again and again. While the file can't be read, what was known last holds.
    pub async fn run(self, end: CancellationToken) {
        let mut ticks = interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = end.cancelled() => return,
            }
            let this = self.clone();
            // A disk that hangs keeps one thread, and this task; turns meet it, too.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    fn look(&self) {
        let Some(file) = &self.file else { return };
        match file.read() {
            Ok(pauses) => self.set(pauses),
            Err(error) => {
                let found = format!(
                    "what is paused can't be read: {}; `turn-worker resume --all` ends all pauses",
                    with_sources(&error)
                );
                self.conditions.set(Condition::Paused, "", Some(found));
            }
        }
    }

    /// Why no turn of that workspace and tenant may start; `None` if it may.
    pub fn of(&self, workspace: &str, tenant: Option<&str>) -> Option<Pause> {
        self.now.borrow().of(workspace, tenant).cloned()
    }

    pub fn now(&self) -> Arc<Pauses> {
        Arc::clone(&self.now.borrow())
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Pauses>> {
        self.now.subscribe()
    }
}
