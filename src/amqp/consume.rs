//! Takes messages from a queue; each is acked or given back once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Acker, BasicProperties, Channel};
use tokio::time::timeout;

use super::link::{Link, LinkError};

/// How long an ack may take to leave. After a close, lapin's may never return.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Why no more deliveries come. What was delivered and not acked is the
/// broker's again: close what is left, and consume again.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    #[error("can't consume from queue {queue:?}")]
    Open {
        queue: String,
        #[source]
        source: LinkError,
    },
    #[error("the name of queue {queue:?} is longer than 255 bytes")]
    NameTooLong { queue: String },
    #[error("consuming from queue {queue:?} ended: {reason}")]
    Ended { queue: String, reason: String },
}

#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The broker delivers the message again.
    #[error("the channel of the delivery is closed, so the broker has it back")]
    Closed(#[source] Option<lapin::Error>),
    #[error("the ack did not leave within {} s", SETTLE_LIMIT.as_secs())]
    TimedOut,
}

/// A message to be settled.
#[derive(Debug)]
pub struct Delivery {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    pub routing_key: String,
    /// The broker delivered it before, to this process or to another.
    pub redelivered: bool,
    receipt: Receipt,
}

/// Acks all of them at once. They are consecutive deliveries of one consumer, with none unsettled before them.
pub async fn ack_all(mut deliveries: Vec<Delivery>) -> Result<(), SettleError> {
    match deliveries.pop() {
        Some(last) => last.ack_with_all_before().await,
        None => Ok(()),
    }
}

/// By which a message is settled that need not be kept itself. Dropped
/// unsettled, the message stays with this process until the channel closes,
/// which gives it back.
#[derive(Debug)]
pub struct Receipt {
    acker: Acker,
    /// Keeps the channel open: lapin closes it with its last handle.
    _channel: Arc<Channel>,
}

impl Delivery {
    /// Acknowledges the message.
    pub async fn ack(self) -> Result<(), SettleError> {
        self.receipt.ack().await
    }

    /// Acknowledges this message and all that its channel delivered before.
    pub async fn ack_with_all_before(self) -> Result<(), SettleError> {
        settle(self.receipt.acker.ack(BasicAckOptions { multiple: true })).await
    }

    /// Requeues the message for the next consumer.
    pub async fn give_back(self) -> Result<(), SettleError> {
        let options = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        settle(self.receipt.acker.nack(options)).await
    }

    /// Has the broker dead-letter the message: a private offer goes to the
    /// shared queue.
    pub async fn decline(self) -> Result<(), SettleError> {
        let options = BasicRejectOptions { requeue: false };
        settle(self.receipt.acker.reject(options)).await
    }

    /// Whether it can still be acked; if not, it is the broker's again.
    pub fn is_held(&self) -> bool {
        self.receipt.acker.usable()
    }

    /// How often the broker had it back; `None` if it is delivered for the first
    /// time, regardless of its headers.
    pub fn times_returned(&self) -> Option<u64> {
        let count = || match self
            .properties
            .headers()
            .as_ref()?
            .inner()
            .get("x-delivery-count")?
        {
            AMQPValue::LongLongInt(count) => u64::try_from(*count).ok(),
            AMQPValue::LongInt(count) => u64::try_from(*count).ok(),
            AMQPValue::LongUInt(count) => Some((*count).into()),
            AMQPValue::ShortInt(count) => u64::try_from(*count).ok(),
            AMQPValue::ShortUInt(count) => Some((*count).into()),
            AMQPValue::ShortShortInt(count) => u64::try_from(*count).ok(),
            AMQPValue::ShortShortUInt(count) => Some((*count).into()),
            _ => None,
        };
        self.redelivered.then(|| count().unwrap_or_default())
    }

    /// Lets go of the message, to be settled later: much smaller (G10).
    pub fn into_receipt(self) -> Receipt {
        self.receipt
    }
}

impl Receipt {
    /// Acknowledges the message.
    pub async fn ack(self) -> Result<(), SettleError> {
        settle(self.acker.ack(BasicAckOptions::default())).await
    }
}

async fn settle(ack: impl Future<Output = lapin::Result<bool>>) -> Result<(), SettleError> {
    match timeout(SETTLE_LIMIT, ack).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(SettleError::Closed(None)),
        Ok(Err(error)) => Err(SettleError::Closed(Some(error))),
        Err(_) => Err(SettleError::TimedOut),
    }
}

/// A consumer on a channel of its own. Dropped, it is cancelled; the channel
/// stays open while there are deliveries of it.
///
/// For a queue with a single active consumer, take [`ConsumerHold`].
#[derive(Debug)]
pub struct Consumer {
    inner: lapin::Consumer,
    channel: Arc<Channel>,
    link: Link,
    queue: String,
}

impl Consumer {
    /// `prefetch`: how many deliveries are out unacked at most. Never 0, which
    /// a quorum queue does not take for "all".
    pub async fn open(link: &Link, queue: &str, prefetch: u16) -> Result<Self, ConsumeError> {
        let options = BasicConsumeOptions::default();
        Self::open_with(link, queue, prefetch, options, FieldTable::default()).await
    }

    /// The same, with what a stream wants to know: where to start.
    pub async fn with_arguments(
        link: &Link,
        queue: &str,
        prefetch: u16,
        arguments: FieldTable,
    ) -> Result<Self, ConsumeError> {
        let options = BasicConsumeOptions::default();
        Self::open_with(link, queue, prefetch, options, arguments).await
    }

    /// A consumer without acknowledgements: the broker settles messages as it delivers them, one by one.
    /// Never with a larger prefetch: what is out when the channel ends is lost.
    pub async fn open_without_acks(link: &Link, queue: &str) -> Result<Self, ConsumeError> {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        Self::open_with(link, queue, 1, options, FieldTable::default()).await
    }

    async fn open_with(
        link: &Link,
        queue: &str,
        prefetch: u16,
        options: BasicConsumeOptions,
        arguments: FieldTable,
    ) -> Result<Self, ConsumeError> {
        let name = ShortString::try_new(queue).map_err(|_| ConsumeError::NameTooLong {
            queue: queue.to_owned(),
        })?;
        let open = async {
            let channel = link.channel().await?;
            let qos = channel.basic_qos(prefetch.max(1), BasicQosOptions::default());
            link.bounded("setting the prefetch", qos).await?;
            let consume = channel.basic_consume(name, ShortString::default(), options, arguments);
            let inner = link.bounded("starting to consume", consume).await?;
            Ok((channel, inner))
        };
        let (channel, inner) = open.await.map_err(|source| ConsumeError::Open {
            queue: queue.to_owned(),
            source,
        })?;
        Ok(Self {
            inner,
            channel: Arc::new(channel),
            link: link.clone(),
            queue: queue.to_owned(),
        })
    }

    /// The next delivery. Cancel-safe.
    pub async fn next(&mut self) -> Result<Delivery, ConsumeError> {
        // The watching of the connection comes second: lapin ends the stream
        // when it notices, this is for when it doesn't.
        let item = tokio::select! {
            biased;
            item = self.inner.next() => item,
            reason = self.link.closed() => return Err(self.ended(reason)),
        };
        match item {
            // Already prefetched when its channel closed: the broker has it back.
            Some(Ok(delivery)) if !delivery.acker.usable() => {
                Err(self.ended("the channel is closed".to_owned()))
            }
            Some(Ok(delivery)) => Ok(Delivery {
                body: delivery.data,
                properties: delivery.properties,
                routing_key: delivery.routing_key.into(),
                redelivered: delivery.redelivered,
                receipt: Receipt {
                    acker: delivery.acker,
                    _channel: Arc::clone(&self.channel),
                },
            }),
            Some(Err(error)) => Err(self.ended(error.to_string())),
            None => Err(self.ended("it was cancelled".to_owned())),
        }
    }

    /// The next delivery, and those behind it that have arrived already, up to `most`. Cancel-safe.
    pub async fn next_ready(&mut self, most: usize) -> Result<Vec<Delivery>, ConsumeError> {
        let mut ready = vec![self.next().await?];
        while ready.len() < most
            && let Some(delivery) = self.next().now_or_never()
        {
            ready.push(delivery?);
        }
        Ok(ready)
    }

    /// Takes no more. What was delivered can still be settled; what this
    /// consumer holds and has not handed out goes back to the queue. Never for
    /// a single active consumer: the next one would start at once, out of order.
    pub async fn stop(mut self) {
        let cancel = self
            .channel
            .basic_cancel(self.inner.tag(), BasicCancelOptions::default());
        if self.link.bounded("a cancel", cancel).await.is_err() {
            return;
        }
        while let Ok(delivery) = self.next().await {
            if delivery.give_back().await.is_err() {
                return;
            }
        }
    }

    /// Closes the channel with the consumer alive: the broker has back, in its
    /// order, what was delivered and not acked.
    pub async fn close(self) -> Result<(), LinkError> {
        let closing = self.channel.close(200, "OK".into());
        self.link.bounded("closing a channel", closing).await
    }

    fn ended(&self, reason: String) -> ConsumeError {
        ConsumeError::Ended {
            queue: self.queue.clone(),
            reason,
        }
    }
}

/// The consumer of an ordered queue, with the connection that it
/// lives and dies with.
///
/// A cancel lets a single active consumer's successor start before the unacked
/// deliveries are back: out of order. A connection that ends returns them
/// first, sorted. So this never cancels: dropped, also by a panic, it hangs up.
#[derive(Debug)]
pub struct ConsumerHold {
    // Dropped before the connection, and after `Drop` hung up: the cancel that
    // lapin then sends has no socket to go through.
    consumer: Consumer,
    link: Link,
}

impl ConsumerHold {
    /// Takes the connection over; other consumers on it end with this one.
    pub async fn open(link: Link, queue: &str, prefetch: u16) -> Result<Self, ConsumeError> {
        let consumer = Consumer::open(&link, queue, prefetch).await?;
        Ok(Self { consumer, link })
    }

    /// As the queue's only consumer; refused while there is another. What two
    /// would hold at once would come back in the order in which they let go.
    pub async fn open_alone(link: Link, queue: &str, prefetch: u16) -> Result<Self, ConsumeError> {
        let options = BasicConsumeOptions {
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let consumer =
            Consumer::open_with(&link, queue, prefetch, options, FieldTable::default()).await?;
        Ok(Self { consumer, link })
    }

    /// The next delivery. Cancel-safe.
    pub async fn next(&mut self) -> Result<Delivery, ConsumeError> {
        self.consumer.next().await
    }

    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Closes the connection in an orderly way, with the consumer alive.
    pub async fn close(self) {
        self.link.close().await;
    }
}

impl Drop for ConsumerHold {
    fn drop(&mut self) {
        self.link.hang_up();
    }
}
