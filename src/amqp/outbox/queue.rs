//! The events that the broker has not confirmed, bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::event::SealedEvent;

/// Unconfirmed events of a turn: more than a round trip to the broker takes up
/// at codex's rate, few enough to be published again and kept in the journal.
pub const WINDOW_EVENTS: usize = 64;
/// Bytes of unconfirmed events of a turn: with the slots, the memory bound.
pub const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// Publishing has ended: the shutdown came first, or publishing has
/// panicked ([`super::Outbox::has_failed`]).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("publishing has ended")]
pub struct Cut;

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified of every change that a task may wait for.
    changed: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<SealedEvent>,
    bytes: usize,
    cut: bool,
    /// The cut is due to a panic.
    failed: bool,
}

impl State {
    /// One event always fits, however large.
    fn has_room_for(&self, event: &SealedEvent) -> bool {
        self.events.is_empty()
            || (self.events.len() < WINDOW_EVENTS && self.bytes + event.json.len() <= WINDOW_BYTES)
    }

    fn push(&mut self, event: SealedEvent) {
        self.bytes += event.json.len();
        self.events.push_back(event);
    }
}

impl Queue {
    pub(super) async fn push(&self, event: &SealedEvent) -> Result<(), Cut> {
        self.when(|state| {
            if state.cut {
                return Some(Err(Cut));
            }
            state.has_room_for(event).then(|| {
                state.push(event.clone());
                Ok(())
            })
        })
        .await?;
        self.changed.notify_waiters();
        Ok(())
    }

    pub(super) fn push_now(&self, events: impl IntoIterator<Item = SealedEvent>) {
        let mut state = self.lock();
        events.into_iter().for_each(|event| state.push(event));
        drop(state);
        self.changed.notify_waiters();
    }

    /// The event at a place, counted from the oldest.
    pub(super) fn get(&self, place: usize) -> Option<SealedEvent> {
        self.lock().events.get(place).cloned()
    }

    /// Takes the oldest event out: it is confirmed.
    pub(super) fn pop(&self) -> Option<SealedEvent> {
        let mut state = self.lock();
        let event = state.events.pop_front();
        if let Some(event) = &event {
            state.bytes -= event.json.len();
        }
        drop(state);
        self.changed.notify_waiters();
        event
    }

    /// Puts another event in the oldest one's place.
    pub(super) fn replace_oldest(&self, event: SealedEvent) {
        let mut state = self.lock();
        if let Some(oldest) = state.events.front_mut() {
            let before = std::mem::replace(oldest, event);
            let after = oldest.json.len();
            state.bytes = state.bytes - before.json.len() + after;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn len(&self) -> usize {
        self.lock().events.len()
    }

    pub(super) fn snapshot(&self) -> Vec<SealedEvent> {
        self.lock().events.iter().cloned().collect()
    }

    pub(super) async fn not_empty(&self) {
        self.longer_than(0).await;
    }

    /// Completes when there are more events than that.
    pub(super) async fn longer_than(&self, length: usize) {
        self.when(|state| (state.events.len() > length).then_some(()))
            .await;
    }

    pub(super) async fn drained(&self) -> Result<(), Cut> {
        self.when(|state| {
            if state.events.is_empty() {
                Some(Ok(()))
            } else {
                state.cut.then_some(Err(Cut))
            }
        })
        .await
    }

    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// `failed`: what publishes has panicked.
    pub(super) fn cut(&self, failed: bool) {
        let mut state = self.lock();
        state.cut = true;
        state.failed = failed;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until `ready` gives something; asked again after every change.
    async fn when<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before looking, so that no change is missed in between.
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.lock()) {
                return value;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    fn event(seq: u64, bytes: usize) -> SealedEvent {
        SealedEvent {
            turn_id: "t-01".into(),
            attempt: 1,
            seq,
            kind: "text_delta".into(),
            json: "x".repeat(bytes).into(),
            trace: None,
        }
    }

    async fn fill(queue: &Queue, bytes: usize) -> u64 {
        let mut seq = 0;
        loop {
            let next = event(seq, bytes);
            if poll!(std::pin::pin!(queue.push(&next))).is_pending() {
                return seq;
            }
            seq += 1;
        }
    }

    #[tokio::test]
    async fn g10_the_window_is_bounded_in_events() {
        assert_eq!(fill(&Queue::default(), 10).await, WINDOW_EVENTS as u64);
    }

    #[tokio::test]
    async fn g10_the_window_is_bounded_in_bytes() {
        assert_eq!(fill(&Queue::default(), WINDOW_BYTES / 4).await, 4);
    }

    #[tokio::test]
    async fn one_event_always_fits() {
        assert_eq!(fill(&Queue::default(), 2 * WINDOW_BYTES).await, 1);
    }

    #[tokio::test]
    async fn a_push_that_is_dropped_while_it_waits_queues_no_event() {
        let queue = Queue::default();
        let full = fill(&queue, 10).await;
        let late = event(full, 10);
        {
            let mut push = std::pin::pin!(queue.push(&late));
            assert!(poll!(push.as_mut()).is_pending());
        }
        queue.pop();
        assert_eq!(
            queue.snapshot().last().map(|event| event.seq),
            Some(full - 1)
        );
        assert_eq!(
            poll!(std::pin::pin!(queue.push(&late))),
            Poll::Ready(Ok(()))
        );
    }

    #[tokio::test]
    async fn an_ending_goes_beyond_the_window() {
        let queue = Queue::default();
        let full = fill(&queue, 10).await;
        queue.push_now([event(full, 10), event(full + 1, 10)]);
        assert_eq!(queue.len() as u64, full + 2);
    }

    #[tokio::test]
    async fn a_cut_ends_every_wait_and_keeps_what_is_unconfirmed() {
        let queue = Queue::default();
        let full = fill(&queue, 10).await;
        let late = event(full, 10);
        let mut push = std::pin::pin!(queue.push(&late));
        let mut drained = std::pin::pin!(queue.drained());
        assert!(poll!(push.as_mut()).is_pending());
        assert!(poll!(drained.as_mut()).is_pending());
        queue.cut(false);
        assert_eq!(poll!(push.as_mut()), Poll::Ready(Err(Cut)));
        assert_eq!(poll!(drained.as_mut()), Poll::Ready(Err(Cut)));
        queue.push_now([late.clone()]);
        assert_eq!(queue.snapshot().len() as u64, full + 1);
    }
}
