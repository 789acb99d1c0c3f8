//! What is asked of the records before a turn may go on, and what their answers
//! change.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::{Held, Line, LinePlace, Ticket};
use super::{Action, CLAIM_FAILED, ClaimAnswer, NEVER, Queue, Verdict};
use crate::request::OnBusy;

/// Of how many turns ahead one look into the records reports, at most. Mostly the
/// first has not ended, and that is all that has to be known.
const AHEAD_AT_ONCE: usize = 16;

impl Queue {
    /// The claim that has to be asked for before the turn may go on.
    pub(super) fn wanted(
        &mut self,
        ticket: Ticket,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Verdict> {
        let held = self.turns.get(&ticket)?;
        if held.place == LinePlace::SharesId {
            // The answer may be that the turn has been started.
            if held.asked.is_some() {
                return None;
            }
            if let Some(workspace) = self.who_has_its_id(ticket) {
                return Some(Verdict::IdTaken { workspace });
            }
            self.take_place(ticket, now, out);
        }
        let held = self.turns.get(&ticket)?;
        if held.cancelled && !held.marked {
            return Some(Verdict::Cancelled);
        }
        if held.place == LinePlace::OneTooMany {
            return Some(Verdict::BacklogFull);
        }
        if held.place == LinePlace::MustNotWait {
            let ahead = self.not_known_to_have_ended(ticket);
            if !ahead.is_empty() {
                return Some(Verdict::Busy { ahead });
            }
            self.let_in(ticket);
        }
        let held = self.turns.get(&ticket)?;
        if !held.marked
            && let Some(by) = self.superseder(held, ticket)
        {
            return Some(Verdict::Superseded { by });
        }
        let expired = held.deadline.is_some_and(|deadline| deadline <= now);
        expired.then_some(Verdict::Expired)
    }

    /// The workspace of a turn that had this one's id first, and is not known
    /// to have ended.
    fn who_has_its_id(&self, ticket: Ticket) -> Option<Arc<str>> {
        let turn_id = &self.turns.get(&ticket)?.turn.turn_id;
        let first = self.by_id.get(turn_id)?.range(..ticket);
        first
            .filter_map(|other| self.turns.get(other))
            .find(|held| !held.has_ended)
            .map(|held| Arc::clone(&held.turn.workspace))
    }

    /// The turn has its id to itself: the limits of its line apply now.
    pub(super) fn take_place(&mut self, ticket: Ticket, now: Instant, out: &mut Vec<Action>) {
        let waits = self.ahead(ticket).next().is_some();
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        held.place = LinePlace::Uncounted;
        // What failed was another claim; this one is for the line as it is now.
        held.claim_not_before = now;
        held.claim_failures = 0;
        let Some(line) = self.lines.get(&held.turn.workspace) else {
            return;
        };
        if held.cancelled {
            return;
        }
        let on_busy = held.turn.on_busy;
        match on_busy {
            OnBusy::Enqueue if line.counted >= self.max_waiting => {
                held.place = LinePlace::OneTooMany
            }
            OnBusy::Reject if waits => held.place = LinePlace::MustNotWait,
            // The last makes room itself.
            OnBusy::Enqueue | OnBusy::Reject | OnBusy::Interrupt => self.let_in(ticket),
        }
        if on_busy == OnBusy::Interrupt {
            self.interrupt(ticket, now, out);
        }
    }

    /// The nearest ones ahead of a turn that are not known to have ended.
    fn not_known_to_have_ended(&self, ticket: Ticket) -> Vec<Arc<str>> {
        self.ahead(ticket)
            .rev()
            .filter_map(|ahead| self.turns.get(&ahead))
            .filter(|held| !held.has_ended)
            .take(AHEAD_AT_ONCE)
            .map(|held| Arc::clone(&held.turn.turn_id))
            .collect()
    }

    fn ahead(&self, ticket: Ticket) -> impl DoubleEndedIterator<Item = Ticket> {
        let line = self.turns.get(&ticket).map(|held| &held.turn.workspace);
        let line = line.and_then(|workspace| self.lines.get(workspace));
        line.into_iter()
            .flat_map(move |line| line.order.range(..ticket).copied())
    }

    /// The first one behind a turn that interrupts it.
    fn superseder(&self, held: &Held, ticket: Ticket) -> Option<Arc<str>> {
        let line: &Line = self.lines.get(&held.turn.workspace)?;
        let behind = (Bound::Excluded(ticket), Bound::Unbounded);
        let by = line.interrupts.range(behind).next()?;
        Some(Arc::clone(&self.turns.get(by)?.turn.turn_id))
    }

    /// Limits do not apply to it any longer; it takes one of its workspace's `max_waiting` places.
    fn let_in(&mut self, ticket: Ticket) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        if std::mem::replace(&mut held.place, LinePlace::Counted) != LinePlace::Counted
            && let Some(line) = self.lines.get_mut(&held.turn.workspace)
        {
            line.counted += 1;
        }
    }

    /// A turn has come that interrupts all ahead of it.
    pub(super) fn interrupt(&mut self, ticket: Ticket, now: Instant, out: &mut Vec<Action>) {
        let workspace = self.turns.get(&ticket).map(|held| &held.turn.workspace);
        let line = workspace.and_then(|workspace| self.lines.get_mut(workspace));
        if let Some(line) = line {
            line.interrupts.insert(ticket);
        }
        let ahead: Vec<Ticket> = self.ahead(ticket).collect();
        for ahead in ahead {
            self.attend(ahead, now, out);
        }
    }

    /// The answer to [`Action::Claim`]. One that comes after the turn's `done` is ignored.
    pub(crate) fn claim_answered(
        &mut self,
        now: Instant,
        ticket: Ticket,
        answer: ClaimAnswer,
        out: &mut Vec<Action>,
    ) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        let Some(verdict) = held.asked.take() else {
            return;
        };
        if answer == ClaimAnswer::Failed {
            let wait = self.jitter.wait(CLAIM_FAILED, held.claim_failures);
            held.claim_not_before = now + wait;
            held.claim_failures = held.claim_failures.saturating_add(1);
        } else {
            held.claim_failures = 0;
        }
        match (answer, verdict) {
            (ClaimAnswer::Won | ClaimAnswer::AlreadyEnded, _) => {
                self.end(ticket, now, out);
                return;
            }
            (ClaimAnswer::AlreadyRun, verdict) => {
                held.deadline = None;
                // One that was cancelled while a limit was looked into still needs its mark.
                match verdict {
                    Verdict::Cancelled => held.marked = true,
                    Verdict::Superseded { by } => {
                        held.marked = true;
                        held.superseded_by = Some(Arc::clone(&by));
                        // The worker that runs it does not know of it yet.
                        out.push(Action::RepeatCancel {
                            turn: Arc::clone(&held.turn),
                            superseded_by: Some(by),
                        });
                    }
                    Verdict::BacklogFull
                    | Verdict::Expired
                    | Verdict::Busy { .. }
                    | Verdict::HostLost { .. }
                    | Verdict::IdTaken { .. } => {}
                }
                self.let_in(ticket);
            }
            (ClaimAnswer::AllEnded, Verdict::Busy { ahead }) => {
                let workspace = Arc::clone(&held.turn.workspace);
                for turn_id in ahead {
                    let ahead = self.find(&workspace, &turn_id);
                    if let Some(held) = ahead.and_then(|ahead| self.turns.get_mut(&ahead)) {
                        held.has_ended = true;
                    }
                }
            }
            (ClaimAnswer::AllEnded, Verdict::IdTaken { workspace }) => {
                let turn_id = Arc::clone(&held.turn.turn_id);
                let other = self.find(&workspace, &turn_id);
                if let Some(held) = other.and_then(|other| self.turns.get_mut(&other)) {
                    held.has_ended = true;
                }
            }
            (ClaimAnswer::Spent, Verdict::Superseded { by }) => {
                let workspace = Arc::clone(&held.turn.workspace);
                let by = self.find(&workspace, &by);
                let line = self.lines.get_mut(&workspace);
                if let (Some(by), Some(line)) = (by, line) {
                    line.interrupts.remove(&by);
                }
            }
            // Other claims are not answered so: they are asked again, later.
            (ClaimAnswer::Failed | ClaimAnswer::AllEnded | ClaimAnswer::Spent, _) => {}
        }
        self.attend(ticket, now, out);
    }

    /// The answer to [`Action::Receive`]: a sequencer first received the turn
    /// so long ago, maybe another one.
    pub(crate) fn was_received(
        &mut self,
        now: Instant,
        ticket: Ticket,
        ago: Duration,
        out: &mut Vec<Action>,
    ) {
        let Some(held) = self.turns.get_mut(&ticket) else {
            return;
        };
        let (Some(limit), Some(deadline)) = (held.turn.start_within, held.deadline) else {
            return;
        };
        let due = now + limit.saturating_sub(ago).min(NEVER);
        held.deadline = Some(deadline.min(due));
        self.attend(ticket, now, out);
    }
}
