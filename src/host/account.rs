//! Whether the account is at fault when turns fail.
//!
//! One failed login may be the turn's own fault: a model that the account may
//! not use. Several in a row, without a turn that works in between, are not: an
//! expired login would end every turn that waits. Then the host takes no turns, and
//! tries one turn at a time:
//!
//! ```text
//! 3 ends in a row by a fault ─▶ no turns ─▶ pause ─▶ one turn ─▶ works: take turns again
//!                                             ▲           └────▶ ends by the fault
//!                                             └── twice as long ───────┘
//! ```

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Finding, Lack};
use crate::event::Reason;
use crate::labels::RateLimit;

/// So many ends by a fault, without one that shows that the account works.
const IN_A_ROW: u32 = 3;
/// The pause before the first trial; it doubles with each that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause where codex has reported when the allowance is renewed:
/// it may have been raised before.
const LONGEST_UNTIL_RESET: Duration = Duration::from_secs(1800);

/// What is lacking where turns fail for that reason. Returns `None` for those that
/// are no fault of an account.
fn lack_of(reason: Reason) -> Option<Lack> {
    match reason {
        Reason::Auth => Some(Lack::Auth),
        Reason::UsageLimit => Some(Lack::UsageLimit),
        Reason::Config => Some(Lack::Config),
        _ => None,
    }
}

/// Which ends count, and what becomes of the turns that meet them.
#[derive(Debug, Clone, Default)]
pub struct AccountPolicy {
    /// Some of [`crate::config::ACCOUNT_FAULTS`]; empty: turns just end.
    pub faults: Vec<Reason>,
    /// A turn that meets a fault while the host takes no turns waits instead of
    /// ending, unless the model has answered it.
    pub waits: bool,
}

/// How a turn that ran has ended.
#[derive(Debug, Clone, Copy)]
pub enum TurnEnd<'a> {
    Good,
    Failed(Reason, &'a [RateLimit]),
    /// Aborted, so that it proves no recovery.
    Stopped,
}

/// What a turn's end shows of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Works,
    Fault {
        lack: Lack,
        /// When the allowance is renewed, if codex has reported it, and how long
        /// that takes.
        reset: Option<(Timestamp, Duration)>,
    },
    Unclear,
}

impl AccountPolicy {
    pub(super) fn judge(&self, end: TurnEnd<'_>, now: Timestamp) -> Sign {
        let (reason, limits) = match end {
            TurnEnd::Good => return Sign::Works,
            TurnEnd::Stopped => return Sign::Unclear,
            TurnEnd::Failed(reason, limits) => (reason, limits),
        };
        if let Some(lack) = lack_of(reason).filter(|_| self.faults.contains(&reason)) {
            let renewed = lack == Lack::UsageLimit;
            let reset = renewed.then(|| reset(limits, now)).flatten();
            return Sign::Fault { lack, reset };
        }
        match reason {
            // The model's API has read the request of this account.
            Reason::ContextWindow | Reason::InvalidPrompt | Reason::Policy => Sign::Works,
            _ => Sign::Unclear,
        }
    }
}

/// When the last of the windows that are used up ends.
fn reset(limits: &[RateLimit], now: Timestamp) -> Option<(Timestamp, Duration)> {
    let used_up = limits.iter().filter(|limit| limit.used_percent >= 100);
    let at = used_up.filter_map(|limit| limit.resets_at).max()?;
    let at = Timestamp::from_second(i64::try_from(at).ok()?).ok()?;
    let left = Duration::try_from(at.duration_since(now)).ok()?;
    (!left.is_zero()).then_some((at, left))
}

/// What is known of the account, by how turns ended.
#[derive(Debug, Default)]
pub(super) struct Account {
    in_a_row: u32,
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Fault {
    lack: Lack,
    reset: Option<(Timestamp, Instant)>,
    /// Trials that met it.
    failed_trials: u32,
    trial: TrialState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrialState {
    Due(Instant),
    Running { met_the_fault: bool },
}

impl Account {
    pub(super) fn turn_ended(&mut self, sign: Sign, now: Instant) {
        let (lack, reset) = match sign {
            Sign::Works => return *self = Self::default(),
            Sign::Unclear => return,
            Sign::Fault { lack, reset } => (lack, reset),
        };
        let reset = reset.map(|(at, left)| (at, now + left));
        self.in_a_row = self.in_a_row.saturating_add(1);
        match &mut self.fault {
            None if self.in_a_row < IN_A_ROW => {}
            None => {
                let fault = Fault {
                    lack,
                    reset,
                    failed_trials: 0,
                    trial: TrialState::Due(now),
                };
                let due = now + fault.pause(now);
                self.fault = Some(Fault {
                    trial: TrialState::Due(due),
                    ..fault
                });
            }
            Some(fault) => {
                (fault.lack, fault.reset) = (lack, reset);
                if let TrialState::Running { met_the_fault } = &mut fault.trial {
                    *met_the_fault = true;
                }
            }
        }
    }

    /// `None` if there is no fault, or a trial runs.
    pub(super) fn next_trial(&self) -> Option<Instant> {
        match self.fault.as_ref()?.trial {
            TrialState::Due(due) => Some(due),
            TrialState::Running { .. } => None,
        }
    }

    /// False if there is no fault to try, or a trial runs.
    pub(super) fn begin_trial(&mut self) -> bool {
        let Some(fault) = &mut self.fault else {
            return false;
        };
        let begins = matches!(fault.trial, TrialState::Due(_));
        if begins {
            fault.trial = TrialState::Running {
                met_the_fault: false,
            };
        }
        begins
    }

    pub(super) fn trial_ended(&mut self, now: Instant) {
        let Some(fault) = &mut self.fault else {
            return;
        };
        let pause = match fault.trial {
            TrialState::Running {
                met_the_fault: true,
            } => {
                fault.failed_trials = fault.failed_trials.saturating_add(1);
                fault.pause(now)
            }
            // The turn did not run, or was cut off.
            TrialState::Running { .. } => FIRST_PAUSE,
            TrialState::Due(_) => return,
        };
        fault.trial = TrialState::Due(now + pause);
    }

    /// Returns `None` if turns can run.
    pub(super) fn finding(&self) -> Option<Finding> {
        let fault = self.fault.as_ref()?;
        let what = match fault.lack {
            Lack::UsageLimit => "the account's allowance is used up",
            Lack::Config => "codex refuses its configuration, or the model",
            _ => "the model's API refuses the login or key",
        };
        let until = match fault.reset {
            Some((at, _)) => format!(", until {at}"),
            None => String::new(),
        };
        Some(Finding {
            lack: fault.lack,
            why: format!(
                "{what}{until}: {IN_A_ROW} turns in a row ended so; one turn at a time is tried until one works"
            ),
        })
    }
}

impl Fault {
    fn pause(&self, now: Instant) -> Duration {
        if let Some((_, at)) = self.reset.filter(|(_, at)| *at > now) {
            return (at - now).clamp(FIRST_PAUSE, LONGEST_UNTIL_RESET);
        }
        let doubled = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.failed_trials));
        doubled.min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::RateLimitWindow;

    const AUTH: Sign = Sign::Fault {
        lack: Lack::Auth,
        reset: None,
    };

    fn policy(faults: &[Reason]) -> AccountPolicy {
        AccountPolicy {
            faults: faults.to_vec(),
            waits: false,
        }
    }

    #[test]
    fn an_end_counts_by_its_reason_and_the_setting() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let both = policy(&[Reason::Auth, Reason::UsageLimit]);
        let judge =
            |policy: &AccountPolicy, reason| policy.judge(TurnEnd::Failed(reason, &[]), now);
        assert_eq!(judge(&both, Reason::Auth), AUTH);
        assert_eq!(judge(&both, Reason::Config), Sign::Unclear);
        assert_eq!(
            judge(&AccountPolicy::default(), Reason::Auth),
            Sign::Unclear
        );
        assert_eq!(judge(&both, Reason::Network), Sign::Unclear);
        assert_eq!(judge(&both, Reason::Policy), Sign::Works);
        assert_eq!(both.judge(TurnEnd::Good, now), Sign::Works);
        assert_eq!(both.judge(TurnEnd::Stopped, now), Sign::Unclear);
        for fault in crate::config::ACCOUNT_FAULTS {
            assert!(lack_of(fault).is_some_and(Lack::is_of_account), "{fault}");
        }
        let config = judge(&policy(&[Reason::Config]), Reason::Config);
        assert!(matches!(
            config,
            Sign::Fault {
                lack: Lack::Config,
                ..
            }
        ));
    }

    #[test]
    fn the_window_that_is_used_up_says_when_the_allowance_is_renewed() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let limit = |window, used_percent, resets_at| RateLimit {
            window,
            used_percent,
            resets_at: Some(resets_at),
        };
        let limits = [
            limit(RateLimitWindow::Primary, 100, 1_800_000_090),
            limit(RateLimitWindow::Secondary, 60, 1_800_100_000),
        ];
        let end = TurnEnd::Failed(Reason::UsageLimit, &limits);
        let Sign::Fault { reset, .. } = policy(&[Reason::UsageLimit]).judge(end, now) else {
            panic!("no fault");
        };
        let (at, left) = reset.unwrap();
        assert_eq!((at.as_second(), left.as_secs()), (1_800_000_090, 90));
        assert_eq!(super::reset(&limits, at), None, "it is over");
    }

    #[test]
    fn a_fault_takes_three_ends_in_a_row_and_is_over_with_a_turn_that_works() {
        let now = Instant::now();
        let mut account = Account::default();
        for sign in [AUTH, AUTH, Sign::Works, AUTH, Sign::Unclear, AUTH] {
            account.turn_ended(sign, now);
            assert_eq!(account.finding(), None);
        }
        assert!(!account.begin_trial());
        account.turn_ended(AUTH, now);
        let finding = account.finding().unwrap();
        assert_eq!(finding.lack, Lack::Auth);
        assert!(finding.why.contains("login"), "{}", finding.why);
        account.turn_ended(Sign::Works, now);
        assert_eq!((account.finding(), account.next_trial()), (None, None));
    }

    #[test]
    fn pauses_double_with_each_trial_that_meets_the_fault() {
        let start = Instant::now();
        let mut account = Account::default();
        (0..8).for_each(|_| account.turn_ended(AUTH, start));
        let mut seconds = Vec::new();
        let mut now = start;
        for _ in 0..10 {
            let due = account.next_trial().unwrap();
            seconds.push((due - now).as_secs());
            now = due;
            assert!(account.begin_trial());
            assert!(!account.begin_trial(), "one at a time");
            account.turn_ended(AUTH, now);
            account.trial_ended(now);
        }
        assert_eq!(seconds, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        // A trial without a result is followed by the next one soon.
        assert!(account.begin_trial());
        account.trial_ended(now);
        assert_eq!(account.next_trial(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn the_next_trial_waits_for_the_reset_but_not_for_days() {
        let now = Instant::now();
        for (left, pause) in [(90, 90), (86_400, 1800)] {
            let at = Timestamp::from_second(1_800_000_000).unwrap();
            let sign = Sign::Fault {
                lack: Lack::UsageLimit,
                reset: Some((at, Duration::from_secs(left))),
            };
            let mut account = Account::default();
            (0..3).for_each(|_| account.turn_ended(sign, now));
            let due = account.next_trial().unwrap();
            assert_eq!((due - now).as_secs(), pause);
            let why = account.finding().unwrap().why;
            assert!(why.contains("until 2027-01-15T08:00:00Z"), "{why}");
        }
    }
}
