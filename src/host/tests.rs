//! On a clock that goes ahead by itself when all tasks wait.

use std::sync::Mutex as StdMutex;

use super::*;
use crate::event::Reason;

/// A part that a test breaks and mends; it keeps how it was looked at.
#[derive(Clone, Default)]
struct Fake {
    broken: Arc<StdMutex<Option<Lack>>>,
    looks: Arc<StdMutex<Vec<Look>>>,
}

impl Fake {
    fn probe(&self) -> Probe {
        let fake = self.clone();
        Box::new(move |look| {
            fake.looks.lock().unwrap().push(look);
            let broken = *fake.broken.lock().unwrap();
            Box::pin(async move {
                // So that others come meanwhile.
                tokio::task::yield_now().await;
                broken.map_or(Ok(()), |lack| {
                    let why = format!("no {lack}");
                    Err(Finding { lack, why })
                })
            })
        })
    }

    fn set(&self, broken: Option<Lack>) {
        *self.broken.lock().unwrap() = broken;
    }

    fn looks(&self) -> Vec<Look> {
        std::mem::take(&mut self.looks.lock().unwrap())
    }
}

fn host() -> (Fake, Fake, Metrics, Host) {
    let (disk, codex) = (Fake::default(), Fake::default());
    let metrics = Metrics::new(None);
    let parts = [(Part::Disk, disk.probe()), (Part::Codex, codex.probe())];
    (disk, codex, metrics.clone(), Host::new(parts, metrics))
}

fn unfit(metrics: &Metrics, lack: Lack) -> bool {
    let text = metrics.gather_text().unwrap();
    text.contains(&format!("turn_worker_host_unfit{{reason=\"{lack}\"}} 1\n"))
}

#[tokio::test]
async fn g4_what_works_when_it_is_tried_was_not_the_hosts_fault() {
    let (disk, codex, metrics, host) = host();
    disk.set(Some(Lack::Disk));
    // The other part is not asked for it.
    assert_eq!(host.examine(Part::Codex).await, None);
    assert_eq!((disk.looks(), codex.looks()), (vec![], vec![Look::Try]));
    assert!(host.is_fit());

    let found = host.examine(Part::Disk).await.unwrap();
    assert_eq!(
        found.to_string(),
        "this host can't run turns (disk): no disk"
    );
    assert_eq!(host.findings(), [found]);
    assert!(unfit(&metrics, Lack::Disk) && !unfit(&metrics, Lack::Codex));
    host.turns_out(false).await;
}

#[tokio::test]
async fn one_probe_answers_for_all_that_fail_at_once() {
    let (disk, _, _, host) = host();
    disk.set(Some(Lack::Resources));
    let examined = join_all((0..50).map(|_| host.examine(Part::Disk))).await;
    assert!(examined.iter().all(Option::is_some));
    assert_eq!(disk.looks(), [Look::Try]);
}

#[tokio::test(start_paused = true)]
async fn g4_a_host_that_is_well_again_is_fit_again_by_itself() {
    let (disk, codex, metrics, host) = host();
    let watching = tokio::spawn(host.clone().watch(CancellationToken::new()));
    disk.set(Some(Lack::Disk));
    codex.set(Some(Lack::Resources));
    host.examine(Part::Disk).await.unwrap();
    host.examine(Part::Codex).await.unwrap();
    disk.set(None);
    host.until(|findings| !findings.contains_key(&Part::Disk))
        .await;
    assert!(!unfit(&metrics, Lack::Disk) && unfit(&metrics, Lack::Resources));
    assert!(!host.is_fit());
    codex.set(None);
    host.turns_out(true).await;
    assert!(host.findings().is_empty() && !unfit(&metrics, Lack::Resources));
    // While it did not work, it was tried, not only looked at.
    assert!(disk.looks().iter().all(|look| *look == Look::Try));
    watching.abort();
}

#[tokio::test(start_paused = true)]
async fn an_idle_host_notices_what_is_lacking() {
    let (_, codex, _, host) = host();
    let end = CancellationToken::new();
    let watching = tokio::spawn(host.clone().watch(end.clone()));
    codex.set(Some(Lack::Codex));
    host.turns_out(false).await;
    assert_eq!(codex.looks(), [Look::Glance]);
    end.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_newest_finding_is_reported() {
    let (disk, _, metrics, host) = host();
    let watching = tokio::spawn(host.clone().watch(CancellationToken::new()));
    disk.set(Some(Lack::Disk));
    host.examine(Part::Disk).await.unwrap();
    disk.set(Some(Lack::Resources));
    host.until(|findings| findings[&Part::Disk].lack == Lack::Resources)
        .await;
    assert!(unfit(&metrics, Lack::Resources) && !unfit(&metrics, Lack::Disk));
    watching.abort();
}

/// Fails by a login that the API refuses, as often as it takes.
fn logged_out(waits: bool) -> (Fake, Metrics, Host) {
    let disk = Fake::default();
    let metrics = Metrics::new(None);
    let policy = AccountPolicy {
        faults: vec![Reason::Auth],
        waits,
    };
    let host = Host::judging_ends([(Part::Disk, disk.probe())], policy, metrics.clone());
    for number in 1..=3 {
        assert!(host.is_fit(), "{number}");
        let waits_now = host.turn_ended(TurnEnd::Failed(Reason::Auth, &[]));
        assert_eq!(waits_now.is_some(), waits && number == 3);
    }
    assert!(!host.is_fit() && unfit(&metrics, Lack::Auth));
    (disk, metrics, host)
}

#[tokio::test(start_paused = true)]
async fn an_account_at_fault_gets_one_turn_at_a_time_until_one_works() {
    let (_, metrics, host) = logged_out(false);
    let began = time::Instant::now();
    let slots = [host.admission(), host.admission()];
    let [first, second] = slots;
    tokio::pin!(first, second);
    let trial = tokio::select! {
        trial = &mut first => trial,
        trial = &mut second => trial,
    };
    assert_eq!(began.elapsed().as_secs(), 2);
    let trial = trial.unwrap();
    let other = tokio::time::timeout(std::time::Duration::from_secs(3600), host.admission());
    assert!(other.await.is_err(), "one at a time");
    assert!(
        host.turn_ended(TurnEnd::Failed(Reason::Auth, &[]))
            .is_none()
    );
    let ended = time::Instant::now();
    drop(trial);
    let trial = host.admission().await.unwrap();
    assert_eq!(ended.elapsed().as_secs(), 4);
    host.turn_ended(TurnEnd::Good);
    host.admission_over(Some(&trial)).await;
    assert!(host.admission().await.is_none());
    assert!(host.is_fit() && !unfit(&metrics, Lack::Auth));
}

#[tokio::test(start_paused = true)]
async fn no_turn_is_tried_if_more_than_the_account_is_at_fault() {
    let (disk, _, host) = logged_out(true);
    let trial = host.admission().await.unwrap();
    disk.set(Some(Lack::Disk));
    host.examine(Part::Disk).await.unwrap();
    host.admission_over(Some(&trial)).await;
    drop(trial);
    let hour = std::time::Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, host.admission()).await.is_err());
    disk.set(None);
    let watching = tokio::spawn(host.clone().watch(CancellationToken::new()));
    assert!(host.admission().await.is_some());
    watching.abort();
}
