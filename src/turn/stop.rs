//! Why a running turn has to stop, and when its clocks say so.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Why a turn stops before codex is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It was cancelled.
    Cancel,
    /// The worker shuts down and can't wait for it: it starts again elsewhere.
    Shutdown,
    /// Its wall clock ran out.
    Timeout,
    /// codex wrote no line for too long.
    Idle,
    /// A newer attempt has started elsewhere: this one's end is of no use.
    Outdated,
}

/// The outside's wish that a turn stop; the first one counts.
#[derive(Debug, Clone)]
pub struct StopHandle {
    wish: watch::Sender<Option<Wish>>,
    /// Apart, since a turn that is being cancelled may have to be left all the same.
    shutdown: CancellationToken,
}

#[derive(Debug, Clone)]
struct Wish {
    why: Stop,
    /// Of a cancel: for which turn.
    superseded_by: Option<String>,
}

impl StopHandle {
    pub fn new() -> Self {
        Self {
            wish: watch::Sender::new(None),
            shutdown: CancellationToken::new(),
        }
    }

    pub fn stop(&self, why: Stop) {
        self.want(why, None);
    }

    /// Its workspace is wanted for another turn, if one is named.
    pub fn cancel(&self, superseded_by: Option<String>) {
        self.want(Stop::Cancel, superseded_by);
    }

    fn want(&self, why: Stop, superseded_by: Option<String>) {
        self.wish.send_if_modified(|wish| {
            let first = wish.is_none();
            wish.get_or_insert(Wish { why, superseded_by });
            first
        });
        if why == Stop::Shutdown {
            self.shutdown.cancel();
        }
    }

    pub fn wanted(&self) -> Option<Stop> {
        self.wish.borrow().as_ref().map(|wish| wish.why)
    }

    /// The turn for which it was cancelled.
    pub fn superseded_by(&self) -> Option<String> {
        self.wish.borrow().as_ref()?.superseded_by.clone()
    }

    /// Completes when the worker can't wait for the turn, also where it was
    /// to stop for another reason before.
    pub async fn shutting_down(&self) {
        self.shutdown.cancelled().await;
    }

    pub async fn stopped(&self) -> Stop {
        let mut receiver = self.wish.subscribe();
        loop {
            if let Some(wish) = &*receiver.borrow_and_update() {
                return wish.why;
            }
            // This handle is itself a sender, so the channel can't be closed.
            let _ = receiver.changed().await;
        }
    }
}

impl Default for StopHandle {
    fn default() -> Self {
        Self::new()
    }
}

/// A turn's timeouts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The whole turn, waiting for a slow broker included.
    pub wall: Duration,
    /// Silence of codex.
    pub idle: Duration,
}

/// Completes with the reason when a turn has to stop.
#[derive(Debug)]
pub(super) struct Clocks {
    handle: StopHandle,
    wall: Pin<Box<Sleep>>,
    idle: Pin<Box<Sleep>>,
    idle_limit: Duration,
    /// Until then codex need not say anything.
    silent_until: Option<Instant>,
}

impl Clocks {
    pub(super) fn start(handle: StopHandle, limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            handle,
            wall: Box::pin(sleep_until(now + limits.wall)),
            idle: Box::pin(sleep_until(now + limits.idle)),
            idle_limit: limits.idle,
            silent_until: None,
        }
    }

    /// Timeouts that only time can stop.
    pub(super) fn at_most(wall: Duration) -> Self {
        Self::start(StopHandle::new(), Limits { wall, idle: wall })
    }

    /// codex said something, or we were the ones who did not listen: the
    /// silence counts from now.
    pub(super) fn heard(&mut self) {
        let now = Instant::now();
        let from = self.silent_until.map_or(now, |until| until.max(now));
        self.idle.as_mut().reset(from + self.idle_limit);
    }

    /// codex reported that a tool sleeps so long: until then silence does not count.
    pub(super) fn expect_silence(&mut self, time: Duration) {
        self.silent_until = self.silent_until.max(Some(Instant::now() + time));
        self.heard();
    }

    /// While codex is listened to.
    pub(super) async fn stop(&mut self) -> Stop {
        tokio::select! {
            biased;
            stop = self.handle.stopped() => stop,
            () = &mut self.wall => Stop::Timeout,
            () = &mut self.idle => Stop::Idle,
        }
    }

    /// While codex is not listened to: then its silence is ours.
    pub(super) async fn stop_unheard(&mut self) -> Stop {
        tokio::select! {
            biased;
            stop = self.handle.stopped() => stop,
            () = &mut self.wall => Stop::Timeout,
        }
    }

    /// `work`, unless the turn has to stop first.
    pub(super) async fn unless_stopped<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Stop> {
        tokio::select! {
            biased;
            value = work => Ok(value),
            stop = self.stop_unheard() => Err(stop),
        }
    }
}
