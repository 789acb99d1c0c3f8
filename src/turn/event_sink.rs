//! Where a turn's events go, and a request that can't be accepted.

use std::future::Future;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::event::{SealedEvent, Tokens, TurnError};

/// Takes a turn's events in their order.
pub trait EventSink: Send + Sync {
    /// Waits while as many events as may be are on their way: this is how a
    /// slow broker slows codex down (G10). Cancel-safe: an event with a push that
    /// was cancelled was not taken.
    fn push(&self, event: &SealedEvent) -> impl Future<Output = ()> + Send;

    /// Takes events without waiting: the last ones of a turn, which must not
    /// hold up the workspace.
    fn push_final(&self, events: &[SealedEvent]);

    /// What has been taken and may not have arrived: all of this goes into
    /// the journal with the turn's end.
    fn unconfirmed(&self) -> Vec<SealedEvent>;

    /// What the attempt has spent so far, each time that codex reports it.
    fn spent(&self, _so_far: Tokens) {}

    /// Keeps the request, which can't be accepted, for operators.
    /// False if cut off before it was kept.
    fn refuse(&self, error: &TurnError) -> impl Future<Output = bool> + Send;
}

/// Hands each event to a function at once; for a terminal or a test.
pub struct Immediate<F>(Mutex<F>);

impl<F: FnMut(&SealedEvent) + Send> Immediate<F> {
    pub fn new(write: F) -> Self {
        Self(Mutex::new(write))
    }
}

impl<F: FnMut(&SealedEvent) + Send> EventSink for Immediate<F> {
    async fn push(&self, event: &SealedEvent) {
        self.push_final(std::slice::from_ref(event));
    }

    fn push_final(&self, events: &[SealedEvent]) {
        let mut write = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().for_each(&mut *write);
    }

    fn unconfirmed(&self) -> Vec<SealedEvent> {
        Vec::new()
    }

    /// The reader of the events is also the sender of the request.
    async fn refuse(&self, _error: &TurnError) -> bool {
        true
    }
}
