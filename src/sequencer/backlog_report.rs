//! Reports what the sequencer holds to operators, unasked. No right to ask is
//! needed, so no user can ask too often, or name another user's queue for the
//! answer; only who may listen to the status exchange hears it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::actions::Actor;
use super::queue::{HostSummary, LineSummary, Oldest, Queue, StuckTurn};
use crate::amqp::messages::{
    BacklogReport, HomesReport, HostReport, LineReport, MAX_HOSTS, MAX_LINES, MAX_NEXT, MAX_STUCK,
    OrderProgress, Status, StuckReport, WaitReport,
};
use crate::amqp::publish::json_properties;
use crate::conditions::ConditionReport;
use crate::error::with_sources;
use crate::homes::Homes;
use crate::pool::Agreement;

/// `backlog`: of an active sequencer.
pub(super) fn told(
    process: &str,
    backlog: Option<BacklogReport>,
    conditions: Vec<ConditionReport>,
    pool: Agreement,
    describes: bool,
    homes: Option<HomesReport>,
) -> Status {
    Status::Sequencer {
        process: process.to_owned(),
        version: crate::VERSION.to_owned(),
        active: backlog.is_some(),
        backlog,
        conditions,
        pool: Some(Box::new(pool)),
        describes,
        homes,
    }
}

/// Of a pool without shared storage: where its workspaces live. `orders`: what is not
/// carried out yet.
pub(super) fn homes(
    hosts: Vec<HostSummary>,
    homes: &Homes,
    orders: Vec<String>,
    progress: Vec<OrderProgress>,
) -> HomesReport {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let host = |host: HostSummary| HostReport {
        disk: host.disk,
        host: host.host.to_string(),
        workspaces: count(host.workspaces),
        busy: count(host.busy),
        lost: host.is_lost,
        away_ms: host.away_for.map(millis),
    };
    HomesReport {
        hosts: hosts.into_iter().map(host).take(MAX_HOSTS).collect(),
        pauses: homes.pauses().clone(),
        orders,
        progress,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `beyond`: turns that the queue has not taken.
pub(super) fn backlog(
    now: Instant,
    limit: usize,
    beyond: usize,
    queue: &Queue,
    stuck: &[StuckTurn],
) -> BacklogReport {
    let summary = queue.summary(now, MAX_LINES, MAX_NEXT);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let wait = |oldest: Oldest| WaitReport {
        held_ms: u64::try_from(now.duration_since(oldest.received).as_millis()).unwrap_or(u64::MAX),
        enqueued_at: oldest.enqueued_at,
    };
    let line = |line: LineSummary| LineReport {
        workspace: line.workspace.to_string(),
        turns: count(line.turns),
        running: line.running,
        paused: line.paused,
        oldest: line.oldest.map(wait),
        next: line.next.iter().map(ToString::to_string).collect(),
        home: line.home.map(|host| host.to_string()),
        home_away_ms: line.home_away.map(millis),
    };
    BacklogReport {
        limit: count(limit),
        turns: count(summary.turns),
        waiting: count(summary.waiting),
        beyond: count(beyond),
        workspaces: count(summary.workspaces),
        oldest: summary.oldest.map(wait),
        stuck: stuck.iter().take(MAX_STUCK).map(stuck_report).collect(),
        top: summary.top.into_iter().map(line).collect(),
    }
}

fn stuck_report(stuck: &StuckTurn) -> StuckReport {
    StuckReport {
        workspace: stuck.workspace.to_string(),
        turn_id: stuck.turn_id.to_string(),
        for_ms: u64::try_from(stuck.lasts.as_millis()).unwrap_or(u64::MAX),
    }
}

impl Actor {
    /// Off the loop; left out while there is no broker, or the last one is
    /// still on its way.
    pub(super) fn tell(&self, status: Status) {
        if !self.publisher.is_connected() {
            return;
        }
        let Ok(place) = Arc::clone(&self.telling).try_acquire_owned() else {
            return;
        };
        let actor = self.clone();
        tokio::spawn(async move {
            let (exchange, body) = (&actor.topology.status, status.encode());
            let told =
                actor
                    .publisher
                    .publish_confirmed(exchange, "", json_properties(), &body, false);
            if let Err(error) = told.await {
                tracing::debug!(error = with_sources(&error), "the backlog was not told");
            }
            drop(place);
        });
    }
}
