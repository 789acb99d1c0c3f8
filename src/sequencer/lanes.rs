//! Work on the records of workspaces, off the loop, one at a time for each
//! workspace: a folder that hangs then keeps one thread and one permit, not all
//! that the other workspaces need, too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::timeout;

/// How long a disk may take before its work counts as failed and is tried again later.
const LIMIT: Duration = Duration::from_secs(30);

/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Lanes(Arc<Mutex<HashMap<String, Weak<AsyncMutex<()>>>>>);

/// One workspace's, until it is dropped or the work in it has ended.
#[derive(Debug)]
pub(super) struct Lane {
    _alone: Option<OwnedMutexGuard<()>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LaneError {
    #[error("the disk has not answered for {} s", LIMIT.as_secs())]
    Hangs,
    #[error("the work on the records panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

impl Lanes {
    /// Waits for the lane of a workspace, while earlier work of it lasts. Without
    /// a workspace there is no lane to wait for.
    pub(super) async fn enter(&self, workspace: Option<&str>) -> Result<Lane, LaneError> {
        let Some(workspace) = workspace else {
            return Ok(Lane { _alone: None });
        };
        let lane = self.of(workspace).lock_owned();
        let entered = timeout(LIMIT, lane).await;
        entered
            .map(|alone| Lane {
                _alone: Some(alone),
            })
            .map_err(|_| LaneError::Hangs)
    }

    fn of(&self, workspace: &str) -> Arc<AsyncMutex<()>> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(workspace).and_then(Weak::upgrade) {
            return lane;
        }
        lanes.retain(|_, lane| lane.strong_count() > 0);
        let lane = Arc::default();
        lanes.insert(workspace.to_owned(), Arc::downgrade(&lane));
        lane
    }
}

impl Lane {
    /// Runs the work in a thread. If that hangs, only the lane hangs with it.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaneError> {
        let working = tokio::task::spawn_blocking(move || {
            let _lane = self;
            work()
        });
        match timeout(LIMIT, working).await {
            Ok(done) => done.map_err(LaneError::Panicked),
            Err(_) => Err(LaneError::Hangs),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;

    use futures_util::poll;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_workspace_that_hangs_holds_up_no_other() {
        let lanes = Lanes::default();
        let (go_on, hung) = mpsc::channel::<()>();
        let lane = lanes.enter(Some("a")).await.unwrap();
        let mut hanging = pin!(lane.run(move || hung.recv().is_ok()));
        assert!(poll!(hanging.as_mut()).is_pending());
        advance(LIMIT).await;
        assert!(matches!(hanging.await, Err(LaneError::Hangs)));
        // It still does.
        let mut again = pin!(lanes.enter(Some("a")));
        assert!(poll!(again.as_mut()).is_pending());
        for other in [Some("b"), None, None] {
            let lane = lanes.enter(other).await.unwrap();
            assert_eq!(lane.run(|| 7).await.unwrap(), 7);
        }
        advance(LIMIT).await;
        assert!(matches!(again.await, Err(LaneError::Hangs)));
        go_on.send(()).unwrap();
        drop(lanes.of("a").lock_owned().await);
    }

    #[tokio::test]
    async fn work_that_panics_leaves_its_lane_free() {
        let lanes = Lanes::default();
        let lane = lanes.enter(Some("a")).await.unwrap();
        let panicked = lane.run(|| panic!("out of ideas")).await;
        assert!(matches!(panicked, Err(LaneError::Panicked(_))));
        let lane = lanes.enter(Some("a")).await.unwrap();
        assert_eq!(lane.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn g10_lanes_without_work_are_forgotten() {
        let lanes = Lanes::default();
        for number in 0..100 {
            drop(lanes.enter(Some(&number.to_string())).await.unwrap());
        }
        assert!(lanes.0.lock().unwrap().len() <= 1);
    }
}
