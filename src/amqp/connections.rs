//! The connections of a process, side by side: whether they lead to one broker.
//!
//! Each is resolved and rebuilt by itself. After a change of the URL or of a
//! DNS record, a process may publish to one broker and consume from another,
//! for as long as the connection there is intact. That is found out by experiment: the
//! newest connection declares a queue, which the others must see. So it counts
//! what matters, one cluster and one virtual host, and not how brokers are named.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use lapin::ErrorKind;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::event_log::text;
use super::link::{Link, LinkError, WeakLink};
use super::topology::Topology;
use crate::error::with_sources;

/// Between two comparisons that could not be made, or found a difference.
const PAUSE: Duration = Duration::from_secs(1);
/// How often in a row a queue must be missing: a member of a cluster may hear of
/// it a little later.
const MISSING_LIMIT: u32 = 3;
/// A probe that was not deleted.
const EXPIRES_MS: i64 = 60 * 1_000;

/// All that are open, by name. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: Mutex<Open>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    /// Counts the connections that were opened.
    opened: u64,
    links: BTreeMap<&'static str, (u64, WeakLink)>,
}

/// How the connections stand to each other.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    One,
    /// The names of those that lead elsewhere than the newest.
    Differ(Vec<&'static str>),
    Unknown,
}

type Named = (&'static str, Link);

impl Connections {
    /// Replaces the connection of that name.
    pub(crate) fn opened(&self, name: &'static str, link: WeakLink) {
        let mut open = self.lock();
        open.opened += 1;
        let number = open.opened;
        open.links.insert(name, (number, link));
        drop(open);
        self.0.changed.notify_one();
    }

    pub(crate) fn closed(&self, name: &'static str) {
        // The next one of that name may be there already.
        let mut open = self.lock();
        if let Some((_, link)) = open.links.get(name)
            && link.upgrade().is_none()
        {
            open.links.remove(name);
        }
    }

    /// Compares whenever a connection is opened. `report` is called with what
    /// was found, or with `None` where all lead to one broker; those that do not
    /// are closed, so that all of them follow the URL.
    pub(crate) async fn keep_together(
        self,
        topology: Topology,
        report: impl Fn(Option<String>),
        end: CancellationToken,
    ) {
        let keep = async {
            let mut delays = regroup_delays();
            let mut settled = true;
            loop {
                if settled {
                    self.0.changed.notified().await;
                }
                let Some((newest, others)) = self.newest_and_others() else {
                    // The next one that is opened brings it up again.
                    settled = true;
                    continue;
                };
                let comparison = compare(&topology, &newest, &others).await;
                settled = comparison == Comparison::One;
                match comparison {
                    Comparison::One => {
                        report(None);
                        delays = regroup_delays();
                    }
                    Comparison::Differ(names) => {
                        report(Some(differing(&newest, &others, &names)));
                        for (name, link) in &others {
                            if names.contains(name) {
                                link.hang_up();
                            }
                        }
                    }
                    Comparison::Unknown => {}
                }
                // Not to keep them open.
                drop((newest, others));
                if !settled {
                    sleep(delays.next().unwrap_or(PAUSE)).await;
                }
            }
        };
        tokio::select! {
            () = keep => {}
            () = end.cancelled() => {}
        }
    }

    /// Returns `None` if fewer than two are open.
    fn newest_and_others(&self) -> Option<(Named, Vec<Named>)> {
        let open = self.lock();
        let mut links: Vec<(u64, Named)> = (open.links.iter())
            .filter_map(|(name, (number, link))| Some((*number, (*name, link.upgrade()?))))
            .collect();
        drop(open);
        links.sort_by_key(|(number, _)| *number);
        let (_, newest) = links.pop()?;
        let others: Vec<Named> = links.into_iter().map(|(_, named)| named).collect();
        (!others.is_empty()).then_some((newest, others))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // No code that holds the lock leaves the state half changed.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 1 s, doubling, never above 2 min: where a name leads to a broker by chance,
/// closing connections again and again would only do harm.
fn regroup_delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(PAUSE)
        .with_max_delay(Duration::from_secs(60))
        .without_max_times()
        .with_jitter()
        .build()
}

async fn compare(topology: &Topology, newest: &Named, others: &[Named]) -> Comparison {
    // The URL has changed: the others follow it, also within one cluster.
    let elsewhere = |link: &Link| {
        let (a, b) = (link.target(), newest.1.target());
        (&a.host, a.port, &a.vhost) != (&b.host, b.port, &b.vhost)
    };
    let moved: Vec<_> = (others.iter())
        .filter(|(_, link)| elsewhere(link))
        .map(|(name, _)| *name)
        .collect();
    if !moved.is_empty() {
        return Comparison::Differ(moved);
    }
    match probe(topology, &newest.1, others).await {
        Ok(names) if names.is_empty() => Comparison::One,
        Ok(names) => Comparison::Differ(names),
        // One of them is lost, or blocked: there will be another, or an end to it.
        Err(error) => {
            tracing::debug!(
                error = with_sources(&error),
                "the connections could not be compared"
            );
            Comparison::Unknown
        }
    }
}

/// The names of those that do not see a queue of the newest.
async fn probe(
    topology: &Topology,
    newest: &Link,
    others: &[Named],
) -> Result<Vec<&'static str>, LinkError> {
    // As the process's own queues of the status exchange are called, so that a
    // user's permissions allow it. Not exclusive, or the broker would log an
    // error for each connection that looks for it.
    let queue = format!("{}.{}", topology.status, uuid::Uuid::now_v7().simple());
    let name = ShortString::from(queue);
    let channel = newest.channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("classic"));
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(EXPIRES_MS));
    let options = QueueDeclareOptions::durable();
    let declare = channel.queue_declare(name.clone(), options, arguments);
    newest.bounded("declaring a probe", declare).await?;
    let mut missing = Vec::new();
    for (other, link) in others {
        if is_missing(link, &name).await? {
            missing.push(*other);
        }
    }
    let delete = channel.queue_delete(name, QueueDeleteOptions::default());
    newest.bounded("deleting a probe", delete).await?;
    newest
        .bounded("closing a channel", channel.close(200, "OK".into()))
        .await?;
    Ok(missing)
}

async fn is_missing(link: &Link, queue: &ShortString) -> Result<bool, LinkError> {
    for tried in 1..=MISSING_LIMIT {
        // The broker closes the channel if the queue does not exist.
        let channel = link.channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declare = channel.queue_declare(queue.clone(), options, FieldTable::default());
        let refused = match link.bounded("looking for a probe", declare).await {
            Ok(_) => {
                let close = channel.close(200, "OK".into());
                link.bounded("closing a channel", close).await?;
                return Ok(false);
            }
            Err(error) => error,
        };
        let LinkError::Amqp { source, .. } = &refused else {
            return Err(refused);
        };
        match source.kind() {
            ErrorKind::ProtocolError(refusal) if refusal.get_id() == 404 => {
                if tried < MISSING_LIMIT {
                    sleep(PAUSE).await;
                }
            }
            _ => return Err(refused),
        }
    }
    Ok(true)
}

fn differing(newest: &Named, others: &[Named], names: &[&str]) -> String {
    let place = |(name, link): &Named| match link.peer() {
        Some(peer) => format!("{name}: {} ({peer})", link.target()),
        None => format!("{name}: {}", link.target()),
    };
    let stale: Vec<String> = (others.iter())
        .filter(|(name, _)| names.contains(name))
        .map(place)
        .collect();
    format!(
        "found {}, which do not share a virtual host of one cluster with {}; expected one broker for all \
         connections of the process; they are closed, to follow the URL; if it comes again, the URL's host \
         name leads to different brokers",
        stale.join(", "),
        place(newest)
    )
}
