//! `turn-worker serve`.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use turn_worker::config::Settings;
use turn_worker::supervisor::Shutdown;

pub(super) const HELP: &str = "\
Examples:
  turn-worker serve
  TURN_WORKER_SLOTS=8 turn-worker serve
  TURN_WORKER_ROLES=sequencer turn-worker serve

SIGTERM, SIGHUP or Ctrl-C: takes no more turns, lets those that run end within TURN_WORKER_SHUTDOWN_GRACE, and gives back \
what then still runs; a second one gives it back at once. All settings: turn-worker --help. /metrics, /healthz and \
/readyz are served at TURN_WORKER_HTTP_ADDR.

Exit status: 0 drained, 1 could not start or was stopped by a failure, 2 wrong arguments or settings.";

/// The first signal drains, the second cuts; so does the end of the grace time.
pub(super) async fn serve(settings: Settings) -> anyhow::Result<ExitCode> {
    turn_worker::guard::prepare_worker().context("can't look after child processes")?;
    let shutdown = Shutdown::default();
    let mut asks = Asks {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hang_up: signal(SignalKind::hangup())?,
    };
    let (watched, grace) = (shutdown.clone(), settings.shutdown_grace);
    let signals = async move {
        tokio::select! {
            () = asks.next() => {}
            // A part of the process has failed.
            () = watched.drain.cancelled() => {}
        }
        tracing::info!(grace = ?grace, "draining: no more turns are taken; a second signal ends at once");
        watched.drain.cancel();
        tokio::select! {
            () = asks.next() => {}
            () = tokio::time::sleep(grace) => {}
        }
        watched.cut.cancel();
    };
    turn_worker::serve::serve(settings, shutdown, signals).await?;
    Ok(ExitCode::SUCCESS)
}

/// The signals that ask the process to end.
struct Asks {
    terminate: Signal,
    interrupt: Signal,
    /// A closed terminal, or a reload out of habit.
    hang_up: Signal,
}

impl Asks {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
