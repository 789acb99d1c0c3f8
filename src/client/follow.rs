//! Follows one turn to its end, over as many connections as that takes.

use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Arrival, Client, ClientError, Order, Origin, Submission, TurnMessage, is_missing};
use crate::amqp::connect::backoff;
use crate::amqp::consume::Consumer;
use crate::amqp::declare_error::DeclareError;
use crate::amqp::link::Link;
use crate::error::with_sources;

/// Events on their way to a slow reader; the rest waits at the broker.
const PREFETCH: u16 = 200;
/// Before an unanswered cancel is sent again.
const CANCEL_PAUSE: Duration = Duration::from_secs(5);
/// After a lost connection, until the request is sent once more as long as
/// no event of the turn comes; twice as long each time, up to the last.
const ASK_AGAIN: Duration = Duration::from_secs(5);
const ASK_AGAIN_AT_MOST: Duration = Duration::from_secs(5 * 60);

/// What a follower gets.
#[derive(Debug)]
pub enum Update {
    Event(Box<TurnMessage>, Arrival),
    /// Without a connection, for another reason than before.
    Lost {
        reason: String,
    },
    /// Listening again. Events may have been missed, never the end: the
    /// request was sent again, and is until something is heard of the turn. One
    /// that has ended gets its end again.
    Restored,
    CancelSent,
    /// It is sent again and again until one does.
    CancelUnheard,
}

/// A turn that is sent and followed.
#[derive(Debug)]
pub struct Follow {
    client: Client,
    submission: Submission,
    cancel: CancellationToken,
    origin: Origin,
    order: Order,
    reading: Option<Reading>,
    cancelling: Cancelling,
    unsure: Option<Unsure>,
    delays: ExponentialBackoff,
    reason: Option<String>,
}

#[derive(Debug)]
struct Reading {
    link: Link,
    consumer: Consumer,
}

/// On a connection that is not the first, before anything was heard on it: the
/// turn's end may have reached no reader, and a request that came while the
/// sequencer had not yet heard of that end was dropped as one sent twice.
#[derive(Debug, Clone, Copy)]
struct Unsure {
    again: Instant,
    pause: Duration,
}

/// How far a cancel is, on the current connection.
#[derive(Debug, Clone, Copy)]
enum Cancelling {
    No,
    Unheard { again: Instant },
    Sent,
}

impl Unsure {
    fn after(pause: Duration) -> Self {
        let again = Instant::now() + pause;
        Self { again, pause }
    }
}

impl Follow {
    /// Listens to the turn's events; it is not sent yet. `cancel` is how the
    /// turn is to be cancelled later.
    pub async fn listen(
        client: Client,
        submission: Submission,
        cancel: CancellationToken,
    ) -> Result<Self, ClientError> {
        let reading = client.read(&submission.turn_id).await?;
        Ok(Self {
            client,
            origin: Origin::new(Some(submission.workspace.clone())),
            submission,
            cancel,
            order: Order::default(),
            reading: Some(reading),
            cancelling: Cancelling::No,
            unsure: None,
            delays: backoff(),
            reason: None,
        })
    }

    /// Sends the turn. Once, before [`Self::next`].
    pub async fn send(&mut self) -> Result<(), ClientError> {
        match &self.reading {
            Some(reading) => {
                let client = &self.client;
                client
                    .publish_request(&reading.link, &self.submission)
                    .await
            }
            None => self.client.submit(&self.submission).await,
        }
    }

    /// Waits for what comes next, and never gives up: to stop waiting, drop it.
    pub async fn next(&mut self) -> Update {
        loop {
            let update = match self.reading.take() {
                Some(reading) => self.read(reading).await,
                None => self.restore().await,
            };
            if let Some(update) = update {
                return update;
            }
        }
    }

    async fn read(&mut self, mut reading: Reading) -> Option<Update> {
        let wanted = async {
            self.cancel.cancelled().await;
            match self.cancelling {
                Cancelling::No => {}
                Cancelling::Unheard { again } => sleep_until(again).await,
                Cancelling::Sent => std::future::pending().await,
            }
        };
        let unsure = async {
            match self.unsure {
                Some(Unsure { again, .. }) => sleep_until(again).await,
                None => std::future::pending().await,
            }
        };
        let delivery = tokio::select! {
            biased;
            () = wanted => return self.send_cancel(reading).await,
            delivery = reading.consumer.next() => delivery,
            () = unsure => return self.ask_again(reading).await,
        };
        match delivery {
            Ok(delivery) => {
                let message = TurnMessage::parse(&delivery.body);
                // One that can't be acked any more is noticed by the next read.
                let _ = delivery.ack().await;
                self.reading = Some(reading);
                let message = message.filter(|m| m.turn_id == self.submission.turn_id)?;
                if !self.origin.admits(message.workspace.as_deref()) {
                    return None;
                }
                // What comes after it comes here, too.
                self.unsure = None;
                let arrival = self.order.place(message.attempt, message.seq)?;
                Some(Update::Event(Box::new(message), arrival))
            }
            Err(error) => self.lost(with_sources(&error)),
        }
    }

    async fn send_cancel(&mut self, reading: Reading) -> Option<Update> {
        let turn_id = &self.submission.turn_id;
        // Without the workspace: a path in it means something to a worker only.
        let sent = self
            .client
            .publish_cancel(&reading.link, turn_id, None)
            .await;
        match sent {
            Ok(()) => {
                self.cancelling = Cancelling::Sent;
                self.reading = Some(reading);
                Some(Update::CancelSent)
            }
            Err(ClientError::Unconfirmed { source, .. }) => self.lost(source.to_string()),
            Err(error) => {
                let first = matches!(self.cancelling, Cancelling::No);
                let again = Instant::now() + CANCEL_PAUSE;
                self.cancelling = Cancelling::Unheard { again };
                self.reading = Some(reading);
                tracing::debug!(error = with_sources(&error), "the cancel was not heard");
                first.then_some(Update::CancelUnheard)
            }
        }
    }

    async fn ask_again(&mut self, reading: Reading) -> Option<Update> {
        let pause = self.unsure.map_or(ASK_AGAIN, |unsure| unsure.pause * 2);
        self.unsure = Some(Unsure::after(pause.min(ASK_AGAIN_AT_MOST)));
        let request = self.client.publish_request(&reading.link, &self.submission);
        if let Err(error) = request.await {
            return self.lost(with_sources(&error));
        }
        self.reading = Some(reading);
        None
    }

    fn lost(&mut self, reason: String) -> Option<Update> {
        self.reading = None;
        let told = self.reason.as_ref() == Some(&reason);
        self.reason = Some(reason.clone());
        (!told).then_some(Update::Lost { reason })
    }

    async fn restore(&mut self) -> Option<Update> {
        sleep(self.delays.next().unwrap_or(CANCEL_PAUSE)).await;
        let restored = async {
            let reading = self.client.read(&self.submission.turn_id).await?;
            // What came in between is gone; if the end was among it, this
            // brings it back.
            self.client
                .publish_request(&reading.link, &self.submission)
                .await?;
            Ok(reading)
        };
        match restored.await {
            Ok(reading) => {
                self.reading = Some(reading);
                self.cancelling = Cancelling::No;
                self.unsure = Some(Unsure::after(ASK_AGAIN));
                self.delays = backoff();
                self.reason = None;
                Some(Update::Restored)
            }
            Err::<_, ClientError>(error) => self.lost(with_sources(&error)),
        }
    }

    /// Takes leave of the broker in an orderly way.
    pub async fn close(self) {
        if let Some(Reading { link, consumer }) = self.reading {
            drop(consumer);
            link.close().await;
        }
    }
}

impl Client {
    /// Bound before anything is sent, so that no event is missed.
    async fn read(&self, turn_id: &str) -> Result<Reading, ClientError> {
        let link = self.connector.connect().await?;
        let queue =
            self.topology
                .declare_reader(&link, turn_id)
                .await
                .map_err(|error| match error {
                    DeclareError::Refused { target, detail, .. } if is_missing(&detail) => {
                        ClientError::NoTopology { target, detail }
                    }
                    error => ClientError::Listen(error),
                })?;
        let consumer = Consumer::open(&link, &queue, PREFETCH).await?;
        Ok(Reading { link, consumer })
    }
}
