//! Offers on their way: where a head is offered, what workers and the broker
//! answer, and what slots that get free are given.

use std::sync::Arc;
use std::time::Instant;

use super::affinity::Placement;
use super::held::LastOffer;
use super::{Action, Destination, NO_WORD, OFFER_FAILED, Queue, REPEAT, Ticket, WorkerReport};
use crate::homes::Homes;
use crate::labels::WhyShared;

impl Queue {
    /// Before [`Queue::done`], also of turns that are not held here: which
    /// worker ended the turn, and whether it keeps the server.
    pub(crate) fn served(
        &mut self,
        now: Instant,
        workspace: &str,
        turn_id: &str,
        worker: &str,
        warm: bool,
    ) {
        let held = self
            .find(workspace, turn_id)
            .and_then(|ticket| self.turns.get(&ticket));
        let took = held
            .and_then(|held| held.taken_at)
            .map(|at| now.saturating_duration_since(at));
        let Some(host) = self.hosts.of_worker(worker) else {
            return;
        };
        let processes = &mut host.affinity.processes;
        processes.ended(now, workspace, turn_id, worker, took);
        host.affinity.keeps(workspace, worker, warm);
    }

    /// A worker has taken an offer of the turn.
    pub(crate) fn offer_taken(
        &mut self,
        now: Instant,
        workspace: &str,
        turn_id: &str,
        worker: &str,
        out: &mut Vec<Action>,
    ) {
        if let Some(host) = self.hosts.of_worker(worker) {
            host.affinity.runs(now, workspace, turn_id, worker);
        }
        let Some(ticket) = self.find(workspace, turn_id) else {
            return;
        };
        // The worker has yet to lock the workspace, so only the first one is taken
        // for a start: a turn with a held lock is taken again and again.
        let is_first = (self.turns.get(&ticket)).is_some_and(|held| held.taken_at.is_none());
        self.was_taken(ticket, now);
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        if is_first {
            held.seen = Some(now);
        }
        let wait = self.jitter.wait(REPEAT, held.waits.saturating_sub(1));
        held.not_before = now + wait;
        held.repeat_cancel(out);
        self.attend(ticket, now, out);
    }

    /// A worker has not taken a private offer, or requeued one that it had taken: it
    /// is in the shared queue now.
    pub(crate) fn offer_declined(
        &mut self,
        now: Instant,
        workspace: &str,
        turn_id: &str,
        worker: &str,
        out: &mut Vec<Action>,
    ) {
        let Some(ticket) = self.find(workspace, turn_id) else {
            return;
        };
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        let was_private = held.offered_to.as_deref() == Some(worker);
        let is_requeued = held.offered_to.is_none()
            && held.taken_at.is_some()
            && held.unanswered.is_none()
            && !held.in_flight;
        if !(was_private || is_requeued) {
            return;
        }
        held.offered_to = None;
        let Some(host) = self.hosts.of(held.disk) else {
            return;
        };
        if was_private {
            let processes = &mut host.affinity.processes;
            processes.private_declined(now, ticket, worker);
        }
        host.offers += 1;
        held.last_offer = Some(LastOffer {
            first: host.offers,
            newest: host.offers,
            at: now,
        });
        held.unanswered = Some(now);
        host.affinity.processes.shared_offer(ticket, now);
        held.not_before = now + self.jitter.wait(REPEAT, held.waits);
        self.attend(ticket, now, out);
    }

    /// What a heartbeat reports besides the turns, before [`Queue::heartbeat`].
    pub(crate) fn worker_heard(
        &mut self,
        now: Instant,
        report: &WorkerReport<'_>,
        out: &mut Vec<Action>,
    ) {
        let lost = |homes: &Homes| report.disk.is_some_and(|disk| homes.is_lost(disk.id));
        if self.homes.as_ref().is_some_and(lost) {
            return;
        }
        let Some(host) = self.hosts.reporting(report) else {
            return;
        };
        let was_away = !host.is_there(now);
        host.affinity.heard(now, report);
        host.heard(now);
        if was_away {
            self.host_is_back(report, now, out);
        }
        self.use_room(now, report.worker, out);
    }

    /// How many workspaces have a preferred process.
    #[cfg(test)]
    pub(crate) fn preferences(&self) -> usize {
        self.hosts
            .iter()
            .map(|(_, host)| host.affinity.kept())
            .sum()
    }

    /// Offers waiting heads to the process, as many as it has free slots.
    pub(crate) fn use_room(&mut self, now: Instant, worker: &str, out: &mut Vec<Action>) {
        while let Some(host) = self.hosts.of_worker(worker)
            && let Some((ticket, to)) = host.affinity.next_for(now, worker)
        {
            // One that waited for its host to come back may have been offered before.
            let again = self.turns.get(&ticket).is_some_and(|held| held.was_offered);
            let to = match again {
                true => Destination::Shared(WhyShared::Repeat),
                false => to,
            };
            self.publish(ticket, to, now, out);
            let deadline = self.turns.get(&ticket).and_then(|held| held.deadline);
            self.set_timer(ticket, deadline);
        }
        self.watch_slots(now);
    }

    pub(super) fn use_all_room(&mut self, now: Instant, out: &mut Vec<Action>) {
        let hosts = self.hosts.iter();
        let with_room = hosts.flat_map(|(_, host)| host.affinity.processes.with_room(now));
        for worker in with_room.collect::<Vec<_>>() {
            self.use_room(now, &worker, out);
        }
    }

    /// A slot that is free, beside offers that may lie in the shared queue, is
    /// looked at again when it must have taken one.
    fn watch_slots(&mut self, now: Instant) {
        let hosts = self.hosts.iter();
        let settle = hosts.filter_map(|(_, host)| host.affinity.slots_settle(now));
        self.slots_settle = settle.min();
    }

    /// The broker has confirmed the offer.
    pub(crate) fn offer_confirmed(&mut self, now: Instant, ticket: Ticket, out: &mut Vec<Action>) {
        let Some(held) = self.turns.get_mut(&ticket).filter(|held| held.in_flight) else {
            return;
        };
        held.in_flight = false;
        held.was_offered = true;
        held.without_effect.get_or_insert(now);
        held.failures = 0;
        held.not_before = match held.offered_to {
            Some(_) => now + NO_WORD,
            None => now + self.jitter.wait(REPEAT, held.waits),
        };
        held.waits = held.waits.saturating_add(1);
        self.attend(ticket, now, out);
    }

    /// The broker has returned or nacked the offer.
    pub(crate) fn offer_failed(&mut self, now: Instant, ticket: Ticket, out: &mut Vec<Action>) {
        let Some(held) = self.turns.get_mut(&ticket).filter(|held| held.in_flight) else {
            return;
        };
        held.in_flight = false;
        if let Some(worker) = held.offered_to.take() {
            // To all at once: the private queue is gone, or full.
            let workspace = Arc::clone(&held.turn.workspace);
            if let Some(host) = self.hosts.of(held.disk) {
                host.affinity.failed(now, ticket, &worker, &workspace);
            }
            self.attend(ticket, now, out);
            return;
        }
        if let Some(since) = held.unanswered.take()
            && let Some(host) = self.hosts.of(held.disk)
        {
            host.affinity.processes.shared_answered(ticket, since);
        }
        // It is in no queue, so no conclusion may be drawn from what the pool has taken.
        held.last_offer = None;
        held.without_effect = None;
        let wait = self.jitter.wait(OFFER_FAILED, held.failures);
        // It may be seen running all the same: then the later wait holds.
        held.not_before = held.not_before.max(now + wait);
        held.failures = held.failures.saturating_add(1);
        self.attend(ticket, now, out);
    }

    /// No answer to the turn's offers is awaited any more.
    pub(super) fn let_go(&mut self, ticket: Ticket, now: Instant) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        let (offered_to, unanswered) = (held.offered_to.take(), held.unanswered.take());
        held.waits_since = None;
        let Some(host) = self.hosts.of(held.disk) else {
            return;
        };
        if let Some(worker) = offered_to {
            let processes = &mut host.affinity.processes;
            processes.private_answered(now, ticket, &worker);
        }
        if let Some(since) = unanswered {
            host.affinity.processes.shared_answered(ticket, since);
        }
        host.affinity.waits_no_more(ticket);
    }

    /// Offers the head, or returns when to look at it again while it waits for a slot.
    pub(super) fn offer(
        &mut self,
        ticket: Ticket,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Instant> {
        let held = self.turns.get_mut(&ticket)?;
        let workspace = &held.turn.workspace;
        let host = self.hosts.of(held.disk)?;
        let unanswered = held.offered_to.take();
        if let Some(worker) = &unanswered {
            host.affinity.failed(now, ticket, worker, workspace);
        }
        let placement = if host.is_away(now) {
            host.affinity.wait(now, ticket, held.waits_since)
        } else if unanswered.is_some() {
            Placement::Offer(Destination::Shared(WhyShared::NoWord))
        } else if held.was_offered {
            Placement::Offer(Destination::Shared(WhyShared::Repeat))
        } else {
            (host.affinity).place(now, workspace, ticket, held.waits_since)
        };
        match placement {
            Placement::Wait(until) => {
                held.waits_since.get_or_insert(now);
                self.watch_slots(now);
                Some(until)
            }
            Placement::Offer(to) => {
                self.publish(ticket, to, now, out);
                None
            }
        }
    }

    fn publish(&mut self, ticket: Ticket, to: Destination, now: Instant, out: &mut Vec<Action>) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        held.waits_since = None;
        let (Some(host), Some(disk)) = (self.hosts.of(held.disk), held.disk) else {
            return;
        };
        host.affinity.waits_no_more(ticket);
        held.in_flight = true;
        match &to {
            Destination::Private { worker, .. } => {
                let processes = &mut host.affinity.processes;
                processes.private_offer(now, ticket, worker);
                held.offered_to = Some(Arc::clone(worker));
            }
            Destination::Shared(_) => {
                host.offers += 1;
                held.last_offer = Some(LastOffer {
                    first: held.last_offer.map_or(host.offers, |offer| offer.first),
                    newest: host.offers,
                    at: now,
                });
                let since = *held.unanswered.get_or_insert(now);
                host.affinity.processes.shared_offer(ticket, since);
            }
        }
        let line = self.lines.get(&held.turn.workspace);
        out.push(Action::Offer {
            ticket,
            turn: Arc::clone(&held.turn),
            repeat: held.was_offered,
            to,
            disk,
            next_waits: line.is_some_and(|line| line.order.len() > 1),
        });
    }
}
