//! What becomes of a process's connections and of its events, as metrics,
//! readiness and conditions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::amqp::connect::{Connector, State};
use crate::amqp::connections::Connections;
use crate::amqp::link::{WeakLink, blocked};
use crate::amqp::outbox::{DropReason, HoldUp, OutboxMetrics};
use crate::amqp::topology::Topology;
use crate::conditions::{Condition, Conditions};
use crate::http::Health;
use crate::metrics::Metrics;

/// The connections of a process, as metrics and reports name them.
pub(super) const PUBLISHER: &str = "publisher";
pub(super) const SEQUENCER: &str = "sequencer";
pub(super) const WORKER: &str = "worker";

/// Of the sequencer's connection: its consumers, and what declares and asks.
const SEQUENCER_CHANNELS: usize = 6;
/// Beside one for each slot: cancels, heartbeats, offers, private offers, what declares.
const CHANNELS_BESIDE: usize = 5;
/// In the broker's words for a user's limit of channels.
const CHANNEL_LIMIT: &str = "number of channels opened for user";
/// A connection that lasts so long is not ended by a limit.
const STABLE: Duration = Duration::from_secs(10);

/// How many channels the worker's and the publishing connection need each.
pub fn channels_needed(slots: usize) -> usize {
    slots + CHANNELS_BESIDE
}

/// What is wrong, if a connection may have too few for so many slots.
pub fn too_few_channels(slots: usize, channel_max: u16) -> Option<String> {
    let needed = channels_needed(slots);
    (usize::from(channel_max) < needed).then(|| {
        format!(
            "found channel_max {channel_max}: the broker allows that many channels on a connection; expected at \
             least {needed} for SLOTS={slots}: raise the broker's channel_max, or lower SLOTS"
        )
    })
}

#[derive(Clone)]
pub(super) struct Watched {
    metrics: Metrics,
    health: Health,
    conditions: Conditions,
    connections: Connections,
    slots: usize,
}

impl Watched {
    pub(super) fn new(
        metrics: Metrics,
        health: Health,
        conditions: Conditions,
        slots: usize,
    ) -> Self {
        Self {
            metrics,
            health,
            conditions,
            connections: Connections::default(),
            slots,
        }
    }

    /// The same connector, with connections that are watched under that name.
    pub(super) fn connector(&self, connector: &Connector, name: &'static str) -> Connector {
        let (watched, first) = (self.clone(), AtomicBool::new(true));
        (connector.clone()).on_state(move |state| watched.news(name, &first, state))
    }

    fn news(&self, name: &'static str, first: &AtomicBool, state: State) {
        let set_blocked = |found| self.conditions.set(Condition::BrokerBlocked, name, found);
        let set_limits = |found| self.conditions.set(Condition::BrokerLimits, name, found);
        match state {
            State::Connected(link) => {
                self.connections.opened(name, link.clone());
                self.compare_limits(name, link);
                self.set_connected(name, true);
                if !first.swap(false, Ordering::Relaxed) {
                    self.metrics.reconnected(name);
                }
            }
            State::Blocked(reason) => set_blocked(Some(blocked(&reason))),
            State::Unblocked => set_blocked(None),
            State::LimitReached(found) => set_limits(Some(found)),
            State::Disconnected(reason) => {
                self.connections.closed(name);
                self.set_connected(name, false);
                set_blocked(None);
                if reason.contains(CHANNEL_LIMIT) {
                    set_limits(Some(format!(
                        "the broker closed the connection: {reason}; expected at least {} channels for \
                         SLOTS={} on all connections of a process together: raise the user's limit \
                         (rabbitmqctl set_user_limits), or lower SLOTS",
                        2 * channels_needed(self.slots) + SEQUENCER_CHANNELS,
                        self.slots
                    )));
                }
            }
        }
    }

    /// What is negotiated is known at once. A user's limit shows by the end of
    /// the connection, so the condition is over when one has lasted.
    fn compare_limits(&self, name: &'static str, link: WeakLink) {
        let Some(open) = link.upgrade() else { return };
        let lack = too_few_channels(self.slots, open.channel_max());
        let conditions = self.conditions.clone();
        let set = move |lack| conditions.set(Condition::BrokerLimits, name, lack);
        if name != SEQUENCER && lack.is_some() {
            return set(lack);
        }
        tokio::spawn(async move {
            sleep(STABLE).await;
            if link.upgrade().is_some() {
                set(None);
            }
        });
    }

    /// The publishing connection stands for the process's: without it no turn
    /// gets anywhere.
    fn set_connected(&self, name: &str, connected: bool) {
        if name == PUBLISHER {
            self.metrics.set_connected(connected);
            self.health.set_connected(connected);
        }
    }

    /// Keeps all connections on one broker until `end`.
    pub(super) fn keep_together(
        &self,
        topology: Topology,
        end: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let conditions = self.conditions.clone();
        let report = move |found| conditions.set(Condition::BrokersDiffer, "", found);
        let connections = self.connections.clone();
        connections.keep_together(topology, report, end)
    }
}

/// What becomes of the events of all turns.
pub(super) struct EventWatch {
    metrics: Metrics,
    conditions: Conditions,
    held_up: Mutex<HeldUp>,
}

/// How many turns' events wait.
#[derive(Default)]
struct HeldUp {
    all: usize,
    forbidden: usize,
}

impl EventWatch {
    pub(super) fn new(metrics: Metrics, conditions: Conditions) -> Self {
        Self {
            metrics,
            conditions,
            held_up: Mutex::default(),
        }
    }
}

impl OutboxMetrics for EventWatch {
    fn confirmed(&self, kind: &str, after: Duration) {
        self.metrics.event_confirmed(kind, after);
    }

    fn nacked(&self) {
        self.metrics.event_nacked();
    }

    fn dropped(&self, kind: &str, reason: DropReason) {
        self.metrics.event_dropped(kind, reason);
    }

    fn held_up(&self, before: Option<&HoldUp>, now: Option<&HoldUp>) {
        let forbidden = |by: Option<&HoldUp>| match by {
            Some(HoldUp::Forbidden(reason)) => Some(reason.clone()),
            _ => None,
        };
        let (was, is) = (forbidden(before), forbidden(now));
        let mut held_up = self.held_up.lock().unwrap_or_else(PoisonError::into_inner);
        held_up.all = held_up.all + usize::from(now.is_some()) - usize::from(before.is_some());
        held_up.forbidden =
            held_up.forbidden + usize::from(is.is_some()) - usize::from(was.is_some());
        self.metrics.set_turns_unpublished(held_up.all);
        let found = match (is, held_up.forbidden) {
            (_, 0) => None,
            (None, _) => return,
            (Some(reason), _) => Some(format!(
                "the broker refuses events: {reason}; expected: the worker's user may write to the events \
                 exchange; the script ops/deploy/rabbitmq/users gives all that a worker needs (users set worker \
                 NAME); the events wait until then"
            )),
        };
        self.conditions
            .set(Condition::EventsRefused, PUBLISHER, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_wait_and_are_refused_until_every_turn_is_rid_of_it() {
        let metrics = Metrics::new(None);
        let conditions = Conditions::new(metrics.clone());
        let watch = EventWatch::new(metrics.clone(), conditions.clone());
        let turns = |count: u32| {
            let line = format!("turn_worker_turns_unpublished {count}\n");
            metrics.gather_text().unwrap().contains(&line)
        };
        let (late, no) = (HoldUp::Unconfirmed, HoldUp::Forbidden("no right".into()));
        watch.held_up(None, Some(&late));
        assert!(turns(1) && !conditions.holds(Condition::EventsRefused));
        watch.held_up(None, Some(&no));
        watch.held_up(Some(&late), Some(&no));
        assert!(turns(2) && conditions.holds(Condition::EventsRefused));
        watch.held_up(Some(&no), None);
        assert!(turns(1) && conditions.holds(Condition::EventsRefused));
        watch.held_up(Some(&no), None);
        assert!(turns(0) && !conditions.holds(Condition::EventsRefused));
    }
}
