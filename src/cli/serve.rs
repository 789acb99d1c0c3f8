//! `turn-worker serve`.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use turn_worker::config::Settings;
use turn_worker::worker::Shutdown;

/// The first signal drains, the second cuts; so does the end of the grace time.
pub async fn serve(settings: Settings) -> anyhow::Result<ExitCode> {
    turn_worker::guard::prepare_worker().context("can't look after child processes")?;
    let shutdown = Shutdown::default();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (watched, grace) = (shutdown.clone(), settings.shutdown_grace);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            // A part of the process has failed.
            () = watched.drain.cancelled() => {}
        }
        tracing::info!(grace = ?grace, "draining: no more turns are taken; a second signal ends at once");
        watched.drain.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(grace) => {}
        }
        watched.cut.cancel();
    });
    turn_worker::serve::serve(settings, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
