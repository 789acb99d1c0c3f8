//! Whether the events that wait are still to be published: while a worker is
//! disconnected, another one may start the turn's next attempt.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::queue::Queue;
use crate::amqp::connect::backoff;
use crate::amqp::link::{Link, WeakLink};

/// Knows which attempt at a turn is the newest.
pub trait AttemptCheck: Send + Sync {
    /// Reads the records, and so blocks.
    fn is_newest(&self, attempt: u32) -> Result<bool, String>;

    /// It is not: its events were dropped.
    fn outdated(&self, attempt: u32);
}

pub(super) struct AttemptChecks<'a> {
    check: Option<Arc<dyn AttemptCheck>>,
    queue: &'a Queue,
    /// The connection since which the attempt is known to be the newest.
    known_on: Option<WeakLink>,
}

impl<'a> AttemptChecks<'a> {
    pub(super) fn new(
        check: Option<Arc<dyn AttemptCheck>>,
        queue: &'a Queue,
        known_on: Option<WeakLink>,
    ) -> Self {
        Self {
            check,
            queue,
            known_on,
        }
    }

    /// Whether no look is needed before publishing on that connection.
    pub(super) fn are_done_on(&self, link: &Link) -> bool {
        let known_on = self.known_on.as_ref().and_then(WeakLink::upgrade);
        self.check.is_none() || known_on.is_some_and(|known_on| known_on.is_same(link))
    }

    /// The connection stays, and what is known is too old.
    pub(super) fn forget(&mut self) {
        self.known_on = None;
    }

    /// Looks before the first publish on that connection; false if the attempt
    /// is outdated.
    pub(super) async fn look_on(&mut self, link: &Link) -> bool {
        let is_newest = self.is_newest().await;
        self.known_on = Some(link.downgrade());
        is_newest
    }

    /// Waits for as long as the records can't be read: as long as it is not
    /// known, publishing has to wait.
    pub(super) async fn is_newest(&self) -> bool {
        let (Some(check), Some(event)) = (&self.check, self.queue.get(0)) else {
            return true;
        };
        let attempt = event.attempt;
        let mut delays = backoff();
        let mut logged = false;
        loop {
            let looking = Arc::clone(check);
            let looked = spawn_blocking(move || looking.is_newest(attempt)).await;
            let error = match looked {
                Ok(Ok(true)) => return true,
                Ok(Ok(false)) => {
                    check.outdated(attempt);
                    return false;
                }
                Ok(Err(error)) => error,
                Err(error) => error.to_string(),
            };
            if !logged {
                logged = true;
                tracing::warn!(
                    error,
                    attempt,
                    "events wait until the journal can be read, as another attempt may have started"
                );
            }
            sleep(delays.next().unwrap_or_default()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::event::SealedEvent;

    #[derive(Default)]
    struct Records {
        answers: Mutex<Vec<Result<bool, String>>>,
        outdated: Mutex<Vec<u32>>,
    }

    impl AttemptCheck for Records {
        fn is_newest(&self, attempt: u32) -> Result<bool, String> {
            assert_eq!(attempt, 3);
            self.answers.lock().unwrap().pop().unwrap()
        }

        fn outdated(&self, attempt: u32) {
            self.outdated.lock().unwrap().push(attempt);
        }
    }

    #[tokio::test]
    async fn g5_what_the_records_do_not_say_yet_is_waited_for() {
        let queue = Queue::default();
        queue.push_now([SealedEvent {
            turn_id: "t".into(),
            attempt: 3,
            seq: 0,
            kind: "text_delta".into(),
            json: "{}".into(),
            trace: None,
        }]);
        let records = Arc::new(Records::default());
        let check = Arc::clone(&records) as Arc<dyn AttemptCheck>;
        let checks = AttemptChecks::new(Some(check), &queue, None);
        for newest in [true, false] {
            let hangs = Err("no answer".to_owned());
            *records.answers.lock().unwrap() = vec![Ok(newest), hangs];
            assert_eq!(checks.is_newest().await, newest);
        }
        assert_eq!(*records.outdated.lock().unwrap(), [3]);
        assert!(AttemptChecks::new(None, &queue, None).is_newest().await);
    }
}
