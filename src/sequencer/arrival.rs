//! When a turn first came: kept on disk for turns that must start in time, so
//! that a takeover does not restart that time.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::actions::{Actor, Records};
use super::queue::QueuedTurn;
use super::remote_records::{ANSWER_LIMIT, unexpected};
use crate::amqp::messages::{RecordsAnswer, RecordsTask};
use crate::error::with_sources;
use crate::fault;
use crate::turn::NotStarted;
use crate::workspace::Received;

impl Actor {
    /// How long ago a sequencer first received the turn. `None` if that
    /// can't be kept: the next sequencer would have to count again.
    pub(super) async fn received(&self, turn: Arc<QueuedTurn>, disk: Uuid) -> Option<Duration> {
        if self.is_here(disk) {
            return self.received_here(turn).await;
        }
        let request = String::from_utf8(turn.request.to_vec()).ok()?;
        match self
            .ask(disk, RecordsTask::Receive { request }, ANSWER_LIMIT)
            .await
        {
            Ok(RecordsAnswer::Received(ago)) => Some(Duration::from_millis(ago)),
            Ok(other) => {
                tracing::warn!(answer = unexpected(&other), "can't keep when a turn came");
                None
            }
            Err(error) => {
                tracing::warn!(error, "can't keep when a turn came");
                None
            }
        }
    }

    pub(super) async fn received_here(&self, turn: Arc<QueuedTurn>) -> Option<Duration> {
        let records = self.records.clone();
        let lane = self.lanes.enter(Some(&turn.workspace)).await;
        let _place = self.receipts.acquire().await;
        let kept = match lane {
            Ok(lane) => lane.run(move || ago(&records, &turn)).await,
            Err(error) => Err(error),
        };
        fault::at("sequencer.receipt_kept");
        match kept {
            Ok(Ok(ago)) => Some(ago),
            Ok(Err(error)) => {
                let error = with_sources(&error);
                tracing::warn!(error, "can't keep when a turn came");
                None
            }
            Err(error) => {
                let error = with_sources(&error);
                tracing::error!(error, "keeping when a turn came failed");
                None
            }
        }
    }
}

/// A record of another host is by that host's clock. If that is known to
/// differ from this one's, it is corrected; else the clocks are taken for
/// equal. Never negative.
fn ago(records: &Records, turn: &QueuedTurn) -> Result<Duration, NotStarted> {
    let now = Timestamp::now();
    let new = Received {
        at: now,
        by: Some(records.by.clone()),
    };
    let workspace = records.root.workspace(&turn.workspace)?;
    let first = workspace.claims().received(&turn.turn_id, new)?;
    let ahead = match &first.by {
        Some(by) => records.pool.clock_ahead(by),
        None => SignedDuration::ZERO,
    };
    Ok(Duration::try_from(now.duration_since(first.at) + ahead).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Conditions;
    use crate::config::Settings;
    use crate::host::Host;
    use crate::metrics::Metrics;
    use crate::pool::Pool;
    use crate::request::OnBusy;
    use crate::workspace::Root;

    fn records(root: &Root, id: &str) -> Records {
        let metrics = Metrics::new(None);
        let host = Host::new([], metrics.clone());
        let (settings, _) = Settings::from_vars([]).unwrap();
        let conditions = Conditions::new(metrics);
        Records {
            root: root.clone(),
            pool: Pool::join(id, root, &settings, host.clone(), conditions),
            host,
            by: id.to_owned(),
        }
    }

    fn turn(id: &str) -> QueuedTurn {
        QueuedTurn {
            workspace: "a".into(),
            turn_id: id.into(),
            fingerprint: 0,
            start_within: Some(Duration::from_secs(600)),
            on_busy: OnBusy::Enqueue,
            request: b"{}".as_slice().into(),
            enqueued_at: None,
            tenant: None,
        }
    }

    /// The predecessor's clock was two hours off in either direction.
    #[test]
    fn the_clock_of_another_host_makes_no_turn_older_or_younger() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let records = records(&root, "here-1-x");
        let workspace = root.workspace("a").unwrap();
        for (hours, process) in [(-2, "behind-1-x"), (2, "ahead-1-x")] {
            let off = SignedDuration::from_hours(hours);
            let a_minute_ago = Timestamp::now() - SignedDuration::from_mins(1);
            let received = Received {
                at: a_minute_ago + off,
                by: Some(process.to_owned()),
            };
            let claims = workspace.claims();
            claims.received(process, received).unwrap();
            let unknown = ago(&records, &turn(process)).unwrap();
            assert!(!(60..600).contains(&unknown.as_secs()), "{unknown:?}");
            // Heard more than once, as a late report makes a clock look late.
            for _ in 0..3 {
                let mut reported = records.pool.agreement();
                reported.clock += off;
                records.pool.heard(process, &reported);
            }
            let known = ago(&records, &turn(process)).unwrap();
            assert!((60..600).contains(&known.as_secs()), "{known:?}");
        }
    }
}
