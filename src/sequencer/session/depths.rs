//! How full the queues are, as the broker reports it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::{Sequencer, Session};
use crate::amqp::link::Link;
use crate::amqp::topology::Depth;
use crate::conditions::Condition;
use crate::sequencer::intake::PREFETCH;

/// How often the broker is asked how full the queues are.
const DEPTH_PULSE: Duration = Duration::from_secs(10);

/// What the broker says of the queues.
#[derive(Debug, Clone)]
pub(super) struct Depths {
    /// Offers that lie in each work queue.
    offers: Vec<(Uuid, u64)>,
    turns: Depth,
}

impl Sequencer {
    /// Asks for as long as it is polled. What the broker does not answer is
    /// asked again; a link that is gone ends the session by itself.
    pub(super) async fn watch_depths(
        &self,
        link: &Link,
        depths: &watch::Sender<Option<Depths>>,
        disks: &watch::Sender<Vec<Uuid>>,
    ) -> Infallible {
        let mut pulse = interval(DEPTH_PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pulse.tick().await;
            let mut offers = Vec::new();
            let known = disks.borrow().clone();
            for disk in known {
                let work = self.topology.work_of(disk);
                // That of a disk that never came is not there.
                if let Ok(depth) = self.topology.depth(link, &work).await {
                    offers.push((disk, depth.ready));
                }
            }
            let turns = self.topology.depth(link, &self.topology.turns).await;
            if let Ok(turns) = turns {
                depths.send_replace(Some(Depths { offers, turns }));
            }
        }
    }
}

impl Session<'_> {
    pub(super) fn depths(&mut self, depths: &Depths) {
        for (disk, offers) in &depths.offers {
            self.queue.work_queue_depth(*disk, *offers);
        }
        self.ready = depths.turns.ready;
        let sequencer = self.sequencer;
        let turns = &sequencer.topology.turns;
        let room = self.held.len() + self.intake.len() < usize::from(PREFETCH);
        let muted = sequencer.conditions.holds(Condition::BrokerBlocked);
        let found = (self.peers).look(Instant::now(), turns, depths.turns, room, muted);
        sequencer
            .conditions
            .set(Condition::ForeignConsumer, "", found);
    }
}
