//! The one timeout of a test: no wait exceeds it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::support::limit::LIMIT;

/// Between two looks at something outside that sends no notification.
const PAUSE: Duration = Duration::from_millis(15);

#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn of_a_test() -> Self {
        Self(Instant::now() + LIMIT)
    }

    /// What `probe` finds, as soon as it finds something.
    pub async fn until<T>(self, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = probe().await {
                    return found;
                }
                sleep(PAUSE).await;
            }
        };
        self.within(what, looking).await
    }

    pub async fn within<T>(self, what: &str, work: impl Future<Output = T>) -> T {
        let done = timeout_at(self.0, work).await;
        done.unwrap_or_else(|_| panic!("waited in vain: {what}"))
    }

    pub fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }
}
