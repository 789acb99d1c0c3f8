//! Ctrl-C: once asks, twice insists.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Default)]
pub(super) struct Interrupts {
    pub first: CancellationToken,
    pub second: CancellationToken,
}

impl Interrupts {
    /// From now on SIGINT no longer ends the process.
    pub(super) fn listen() -> std::io::Result<Self> {
        let interrupts = Self::default();
        let Self { first, second } = interrupts.clone();
        let mut signals = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            signals.recv().await;
            first.cancel();
            signals.recv().await;
            second.cancel();
        });
        Ok(interrupts)
    }
}
