//! Trying a host's parts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Finding, Lack, Look, Probe};
use crate::codex::program::{Launch, Program};
use crate::config::EngineKind;
use crate::metrics::Metrics;
use crate::versions::doubt_of_codex;
use crate::workspace::Root;

/// A disk that takes longer for a small file runs no turn.
const DISK_LIMIT: Duration = Duration::from_secs(30);

/// Whether records can be written.
pub fn disk(root: Root) -> Probe {
    // A file system that hangs holds one thread, not one more with each probe.
    let one = Arc::new(Semaphore::new(1));
    Box::new(move |_| {
        let (root, one) = (root.clone(), Arc::clone(&one));
        Box::pin(async move {
            let no_answer = || Finding {
                lack: Lack::Disk,
                why: format!(
                    "{} does not answer within {} s",
                    root.path().display(),
                    DISK_LIMIT.as_secs()
                ),
            };
            let place = one.try_acquire_owned().map_err(|_| no_answer())?;
            let tried = root.clone();
            let probe = tokio::task::spawn_blocking(move || {
                let _place = place;
                tried.probe()
            });
            match timeout(DISK_LIMIT, probe).await {
                Ok(Ok(probed)) => probed.map_err(|error| Finding::from(&error)),
                // It panicked, or the process ends: that does not concern the disk.
                Ok(Err(_)) => Ok(()),
                Err(_) => Err(no_answer()),
            }
        })
    })
}

/// Whether there is a codex that runs. A glance runs it only where another
/// file has taken its place.
pub fn codex(program: Program, launch: Launch, metrics: Metrics) -> Probe {
    Box::new(move |look| {
        let (program, launch, metrics) = (program.clone(), launch.clone(), metrics.clone());
        Box::pin(async move {
            if look == Look::Glance && program.is_as_tried() {
                return Ok(());
            }
            let version = program.version(&launch).await;
            let version = version.map_err(|error| Finding::from(&error))?;
            report_codex_version(&version, launch.engine, &metrics);
            Ok(())
        })
    })
}

/// Passes on which codex runs turns from now on.
pub fn report_codex_version(version: &str, engine: EngineKind, metrics: &Metrics) {
    metrics.set_codex_version(version);
    if let Some(doubt) = doubt_of_codex(version, engine) {
        tracing::warn!("{doubt}");
    }
}
