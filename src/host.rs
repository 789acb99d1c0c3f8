//! What this host lacks for running turns, if anything, and when it has it again.
//!
//! ```text
//! a turn meets an error ─▶ suspect ─▶ probe ─▶ works: the turn's own
//!                                       └────▶ fails: the host's ─▶ no offers, /readyz, metric
//!                  now and then ─▶ probe ─▶ works: take offers again
//! ```
//!
//! An error alone does not show where the fault lies: a full disk stops every
//! turn, a damaged folder one workspace. So the part of the host that is
//! suspected is tried apart from any turn, and that decides.
//!
//! An account cannot be tried apart from turns: a login that looks good may
//! have expired. So the ends of turns decide about it, see [`account`].

pub(crate) mod account;
mod finding;
mod pauses;
mod probes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{BoxFuture, join_all};
use jiff::Timestamp;
use tokio::sync::{Mutex, watch};
use tokio::time::{self, sleep};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use account::{Account, AccountPolicy, TurnEnd};
pub use finding::{Finding, Lack, Part};
use pauses::Pauses;
pub use probes::{codex, disk, report_codex_version};

/// Tries a part of the host.
pub type Probe = Box<dyn Fn(Look) -> BoxFuture<'static, Result<(), Finding>> + Send + Sync>;

/// How closely a part is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Whether it still is what worked before; may be done for ever.
    Glance,
    /// Whether it works.
    Try,
}

/// Cheap to clone; all clones know the same.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    parts: BTreeMap<Part, Probed>,
    findings: watch::Sender<BTreeMap<Part, Finding>>,
    /// The host may be well, but the pool has work for another root only.
    barred: watch::Sender<bool>,
    policy: AccountPolicy,
    account: watch::Sender<Account>,
    metrics: Metrics,
}

/// Permission to take one turn while the account is at fault. Only one exists at
/// a time; dropping it starts the pause before the next.
#[derive(Debug)]
#[must_use = "the trial ends when this is dropped"]
pub struct Trial(Host);

impl Drop for Trial {
    fn drop(&mut self) {
        let now = time::Instant::now();
        self.0
            .inner
            .account
            .send_modify(|account| account.trial_ended(now));
    }
}

struct Probed {
    probe: Probe,
    /// Many turns may fail at once; one probe answers for all.
    one_at_a_time: Mutex<()>,
}

impl Probed {
    fn by(probe: Probe) -> Self {
        Self {
            probe,
            one_at_a_time: Mutex::default(),
        }
    }
}

impl Host {
    /// Fit until something is found; `parts` are what it needs. The ends of turns
    /// do not count.
    pub fn new(parts: impl IntoIterator<Item = (Part, Probe)>, metrics: Metrics) -> Self {
        Self::judging_ends(parts, AccountPolicy::default(), metrics)
    }

    /// As [`Self::new`], and unfit while turns end as `policy` says.
    pub fn judging_ends(
        parts: impl IntoIterator<Item = (Part, Probe)>,
        policy: AccountPolicy,
        metrics: Metrics,
    ) -> Self {
        let parts = parts.into_iter();
        Self {
            inner: Arc::new(Inner {
                parts: parts
                    .map(|(part, probe)| (part, Probed::by(probe)))
                    .collect(),
                findings: watch::Sender::default(),
                barred: watch::Sender::default(),
                policy,
                account: watch::Sender::default(),
                metrics,
            }),
        }
    }

    /// Notes how a turn that ran here has ended. Returns the account's fault if
    /// the turn is to wait until it is over, instead of ending by it.
    pub fn turn_ended(&self, end: TurnEnd<'_>) -> Option<Finding> {
        let now = time::Instant::now();
        let end = self.inner.policy.judge(end, Timestamp::now());
        let mut finding = None;
        self.inner.account.send_modify(|account| {
            account.turn_ended(end, now);
            finding = account.finding();
            // Under the account's lock, so that of two ends the later one is noted last.
            self.found(Part::Account, finding.clone());
        });
        let is_fault = matches!(end, account::Sign::Fault { .. });
        finding.filter(|_| is_fault && self.inner.policy.waits)
    }

    /// Completes when a turn may be taken: `None` where turns can run, and with a
    /// permit for one turn where the account is to be tried.
    pub async fn admission(&self) -> Option<Trial> {
        // It can't be closed: this is a sender itself.
        let mut findings = self.inner.findings.subscribe();
        let mut barred = self.inner.barred.subscribe();
        let mut account = self.inner.account.subscribe();
        loop {
            if self.is_fit() {
                return None;
            }
            let due = self.inner.account.borrow().next_trial();
            let due = due.filter(|_| self.lacks_only_the_account());
            if due.is_some_and(|due| due <= time::Instant::now()) && self.begin_trial() {
                return Some(Trial(self.clone()));
            }
            tokio::select! {
                _ = findings.changed() => {}
                _ = barred.changed() => {}
                _ = account.changed() => {}
                () = wait_until(due) => {}
            }
        }
    }

    /// Completes when what [`Self::admission`] returned no longer holds: the host
    /// became unfit, or, in a trial, fit or unfit for another cause.
    pub async fn admission_over(&self, trial: Option<&Trial>) {
        let mut findings = self.inner.findings.subscribe();
        let mut barred = self.inner.barred.subscribe();
        let holds = || match trial {
            Some(_) => self.lacks_only_the_account(),
            None => self.is_fit(),
        };
        while holds() {
            tokio::select! {
                _ = findings.changed() => {}
                _ = barred.changed() => {}
            }
        }
    }

    /// Completes when turns can run; not for a trial.
    pub async fn fit(&self) {
        let mut findings = self.inner.findings.subscribe();
        let mut barred = self.inner.barred.subscribe();
        while !self.is_fit() {
            tokio::select! {
                _ = findings.changed() => {}
                _ = barred.changed() => {}
            }
        }
    }

    fn lacks_only_the_account(&self) -> bool {
        let findings = self.inner.findings.borrow();
        !self.is_barred() && findings.keys().eq([&Part::Account])
    }

    fn begin_trial(&self) -> bool {
        let mut begun = false;
        self.inner.account.send_if_modified(|account| {
            begun = account.begin_trial();
            begun
        });
        begun
    }

    /// Something went wrong that may be this host's fault: returns what it
    /// lacks, or `None` if the part works, so that the fault is elsewhere.
    pub async fn examine(&self, part: Part) -> Option<Finding> {
        let probed = self.inner.parts.get(&part)?;
        let _alone = probed.one_at_a_time.lock().await;
        if let Some(known) = self.finding(part) {
            return Some(known);
        }
        self.probe(part, probed, Look::Try).await
    }

    /// What is lacking, for people; `None`: turns can run.
    pub fn findings(&self) -> Vec<Finding> {
        self.inner.findings.borrow().values().cloned().collect()
    }

    pub fn is_fit(&self) -> bool {
        self.inner.findings.borrow().is_empty() && !self.is_barred()
    }

    /// Keeps this process from taking turns, independent of the host's state: see
    /// [`crate::pool`].
    pub fn set_barred(&self, barred: bool) {
        self.inner.barred.send_if_modified(|before| {
            let changed = *before != barred;
            *before = barred;
            changed
        });
    }

    pub fn is_barred(&self) -> bool {
        *self.inner.barred.borrow()
    }

    /// Completes when the process is barred, or when it is not.
    pub async fn turns_barred(&self, barred: bool) {
        // It can't be closed: this is a sender itself.
        let mut now = self.inner.barred.subscribe();
        let _ = now.wait_for(|now| *now == barred).await;
    }

    /// Completes when turns can run here, or when they can't.
    pub async fn turns_out(&self, fit: bool) {
        let mut findings = self.inner.findings.subscribe();
        let mut barred = self.inner.barred.subscribe();
        while self.is_fit() != fit {
            tokio::select! {
                _ = findings.changed() => {}
                _ = barred.changed() => {}
            }
        }
    }

    /// Looks at every part for as long as it lives: what is idle notices what
    /// is lacking, too, and what was found is taken back when it works again.
    pub async fn watch(self, end: CancellationToken) {
        let parts = self.inner.parts.iter();
        let watching = join_all(parts.map(|(part, probed)| self.watch_part(*part, probed)));
        tokio::select! {
            _ = watching => {}
            () = end.cancelled() => {}
        }
    }

    async fn watch_part(&self, part: Part, probed: &Probed) {
        let mut pauses = Pauses::default();
        loop {
            let fit = self.finding(part).is_none();
            let changed = self.until(|findings| findings.contains_key(&part) == fit);
            tokio::select! {
                () = sleep(pauses.next(fit, Instant::now())) => {}
                () = changed => continue,
            }
            let _alone = probed.one_at_a_time.lock().await;
            let look = if fit { Look::Glance } else { Look::Try };
            self.probe(part, probed, look).await;
        }
    }

    async fn probe(&self, part: Part, probed: &Probed, look: Look) -> Option<Finding> {
        let finding = (probed.probe)(look).await.err();
        self.found(part, finding.clone());
        finding
    }

    fn found(&self, part: Part, finding: Option<Finding>) {
        self.inner.findings.send_if_modified(|findings| {
            let before = findings.get(&part).cloned();
            if before == finding {
                return false;
            }
            match &finding {
                Some(Finding { lack, why }) if before.is_none() => {
                    let lack = lack.as_str();
                    tracing::error!(
                        lack,
                        why,
                        "this host can't run turns, so it takes no offers"
                    );
                }
                Some(Finding { lack, why }) => {
                    tracing::warn!(lack = lack.as_str(), why, "this host still can't run turns");
                }
                None => tracing::info!(
                    lacked = before.map(|finding| finding.lack.as_str()),
                    "what this host lacked is there again"
                ),
            }
            match finding {
                Some(finding) => drop(findings.insert(part, finding)),
                None => drop(findings.remove(&part)),
            }
            for lack in Lack::ALL {
                let unfit = findings.values().any(|finding| finding.lack == *lack);
                self.inner.metrics.set_host_unfit(*lack, unfit);
            }
            true
        });
    }

    fn finding(&self, part: Part) -> Option<Finding> {
        self.inner.findings.borrow().get(&part).cloned()
    }

    async fn until(&self, holds: impl Fn(&BTreeMap<Part, Finding>) -> bool) {
        let mut findings = self.inner.findings.subscribe();
        // It can't be closed: this is a sender itself.
        let _ = findings.wait_for(|now| holds(now)).await;
    }
}

/// Never without an instant.
async fn wait_until(due: Option<time::Instant>) {
    match due {
        Some(due) => time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let findings = self.findings();
        f.debug_struct("Host")
            .field("findings", &findings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
