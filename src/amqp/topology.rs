//! What the workers declare on the broker, and under which names.

use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind, Queue};

use uuid::Uuid;

use super::declare_error::{DeclareError, Operation};
use super::link::Link;
use crate::homes::SHARED;

/// The routing key under which producers publish their requests.
pub const REQUEST_KEY: &str = "turn";
/// Above any count of deliveries: an attempt is counted by the journal, and
/// from RabbitMQ 4.0 the broker would drop a turn after 20 deliveries.
const DELIVERY_LIMIT: i64 = 1_000_000;
/// Control messages that wait for a process: the oldest go, of which cancels are sent again.
const MAX_CONTROLS: i64 = 50_000;
/// 30 days: the default of 30 minutes would close the channel of a consumer that
/// holds a turn for longer.
const CONSUMER_TIMEOUT_MS: i64 = 30 * 24 * 3_600 * 1_000;

/// A minute: a private queue without its process.
const PRIVATE_EXPIRES_MS: i64 = 60 * 1_000;

/// A week: the queues of a disk of which no process has come.
const DISK_EXPIRES_MS: i64 = 7 * 24 * 3_600 * 1_000;

/// For how long an offer lies in a private queue, as AMQP writes it: after
/// 250 ms without a consumer that takes it, the broker moves it to the shared queue.
pub const PRIVATE_OFFER_MS: &str = "250";

/// A minute: a probe that was not deleted.
const PROBE_EXPIRES_MS: i64 = 60 * 1_000;

/// Where other own queues have a UUID: "turns-lock" in ASCII.
const TURNS_LOCK: &str = "7475726e732d6c6f636b000000000000";

/// The names of all objects, and their arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Direct exchange of the producers.
    pub requests: String,
    /// Queue of the turns, for the active sequencer.
    pub turns: String,
    /// Queue of the offers, for the workers; of one disk's, where each host has its own.
    pub work: String,
    /// Log of the workspaces' homes, where each host has a disk of its own.
    pub homes: String,
    /// Queue of what could not be accepted.
    pub dead: String,
    /// Topic exchange of the replies.
    pub events: String,
    /// Stream of all events, where one is kept.
    pub log: String,
    /// Fanout exchange of cancels.
    pub control: String,
    /// Fanout exchange among workers.
    pub status: String,
    dead_letter_limit: u32,
    prefix: String,
    /// That of this process, where each host has its own.
    disk: Option<Uuid>,
}

/// A fanout that each process listens to with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fanout {
    Status,
    Control,
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that are ready: not delivered to a consumer.
    pub ready: u64,
    /// Of a queue with a single active consumer, only that one.
    pub consumers: u64,
}

impl Topology {
    /// `dead_letter_limit`: messages that the dead queue keeps, the newest.
    pub fn new(prefix: &str, dead_letter_limit: u32) -> Self {
        Self {
            requests: format!("{prefix}.requests"),
            turns: format!("{prefix}.turns"),
            work: format!("{prefix}.turns.work"),
            dead: format!("{prefix}.turns.dead"),
            events: format!("{prefix}.events"),
            log: format!("{prefix}.events.log"),
            control: format!("{prefix}.control"),
            status: format!("{prefix}.status"),
            homes: format!("{prefix}.turns.homes"),
            dead_letter_limit,
            prefix: prefix.to_owned(),
            disk: None,
        }
    }

    /// As a process with that disk needs it, in a pool without shared storage.
    #[must_use]
    pub fn with_disk(self, disk: Uuid) -> Self {
        Self {
            work: self.work_of(disk),
            disk: Some(disk),
            ..self
        }
    }

    /// Each host has a disk of its own.
    pub fn is_local(&self) -> bool {
        self.disk.is_some()
    }

    /// The queue of offers for the processes of a disk.
    pub fn work_of(&self, disk: Uuid) -> String {
        match disk {
            SHARED => format!("{}.turns.work", self.prefix),
            disk => format!("{}.turns.work.{}", self.prefix, disk.simple()),
        }
    }

    /// The queue of what sequencers want to know of a disk's records.
    pub fn records_of(&self, disk: Uuid) -> String {
        format!("{}.turns.records.{}", self.prefix, disk.simple())
    }

    /// Declares everything; what exists already as it should be stays as it
    /// is. The connection is usable afterwards, also after an error.
    pub async fn declare(&self, link: &Link) -> Result<(), DeclareError> {
        // The broker closes the channel on an error, so it gets its own.
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        declare
            .exchange(&self.requests, ExchangeKind::Direct)
            .await?;
        declare.exchange(&self.events, ExchangeKind::Topic).await?;
        declare
            .exchange(&self.control, ExchangeKind::Fanout)
            .await?;
        declare.exchange(&self.status, ExchangeKind::Fanout).await?;
        declare
            .quorum_queue(&self.turns, self.turns_arguments())
            .await?;
        match self.disk {
            None => declare.quorum_queue(&self.work, Self::work_arguments()),
            Some(_) => declare.quorum_queue(&self.work, Self::of_disk_arguments()),
        }
        .await?;
        if let Some(disk) = self.disk {
            declare
                .quorum_queue(&self.homes, self.turns_arguments())
                .await?;
            declare
                .quorum_queue(&self.records_of(disk), Self::of_disk_arguments())
                .await?;
        }
        declare
            .quorum_queue(&self.dead, self.dead_arguments())
            .await?;
        declare
            .bind(&self.turns, &self.requests, REQUEST_KEY)
            .await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(())
    }

    /// Declares this process's own queue of a fanout, bound to it; it goes when
    /// the connection goes. Returns its name, which starts with the prefix, so
    /// that a user's permissions show by that.
    pub async fn declare_exclusive(
        &self,
        link: &Link,
        fanout: Fanout,
    ) -> Result<String, DeclareError> {
        let mut arguments = FieldTable::default();
        if matches!(fanout, Fanout::Control) {
            let most = AMQPValue::LongLongInt(MAX_CONTROLS);
            arguments.insert("x-max-length".into(), most);
        }
        let exchange = self.exchange_of(fanout);
        self.own_queue(link, exchange, "", arguments).await
    }

    /// Binds such a queue again, in case its exchange was deleted.
    pub(super) async fn bind_exclusive(
        &self,
        link: &Link,
        fanout: Fanout,
        queue: &str,
    ) -> Result<(), DeclareError> {
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        declare.bind(queue, self.exchange_of(fanout), "").await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(())
    }

    fn exchange_of(&self, fanout: Fanout) -> &str {
        match fanout {
            Fanout::Status => &self.status,
            Fanout::Control => &self.control,
        }
    }

    /// Declares a producer's own queue for one turn's events, as
    /// [`Self::declare_exclusive`] does; everything else must be there.
    pub async fn declare_reader(&self, link: &Link, turn_id: &str) -> Result<String, DeclareError> {
        let arguments = FieldTable::default();
        self.own_queue(link, &self.events, turn_id, arguments).await
    }

    async fn own_queue(
        &self,
        link: &Link,
        exchange: &str,
        key: &str,
        arguments: FieldTable,
    ) -> Result<String, DeclareError> {
        let queue = format!("{exchange}.{}", uuid::Uuid::now_v7().simple());
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        declare.queue(&queue, options, arguments).await?;
        declare.bind(&queue, exchange, key).await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(queue)
    }

    pub(super) async fn declare_log(
        &self,
        link: &Link,
        arguments: FieldTable,
    ) -> Result<(), DeclareError> {
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        declare
            .queue(&self.log, QueueDeclareOptions::durable(), arguments)
            .await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(())
    }

    pub(super) async fn bind_log(&self, link: &Link) -> Result<(), DeclareError> {
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        declare.bind(&self.log, &self.events, "#").await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(())
    }

    /// A new name for a process's private queue of offers.
    pub fn new_private_work(&self) -> String {
        format!("{}.{}", self.work_of(SHARED), Uuid::now_v7().simple())
    }

    /// Whether a queue of that name is for private offers.
    pub fn is_private_work(&self, queue: &str) -> bool {
        let own = queue.strip_prefix(&*self.work_of(SHARED));
        own.and_then(|own| own.strip_prefix('.'))
            .is_some_and(is_own)
    }

    /// Whether a queue of that name is a sequencer's own, for answers.
    pub fn is_own_status(&self, queue: &str) -> bool {
        let own = queue.strip_prefix(&*self.status);
        own.and_then(|own| own.strip_prefix('.'))
            .is_some_and(is_own)
    }

    /// Declares a process's private queue of offers. It is not exclusive: it
    /// would go with the connection, and all offers with it. What is declined,
    /// lies there for too long, or was delivered to a process that is gone,
    /// the broker moves to the shared queue.
    ///
    /// # Errors
    ///
    /// [`DeclareError::Forbidden`] if the user's rights are those of an older
    /// version.
    pub async fn declare_private_work(&self, link: &Link, queue: &str) -> Result<(), DeclareError> {
        let mut arguments = self.private_arguments();
        let forever = arguments.clone();
        arguments.insert(
            "x-consumer-timeout".into(),
            AMQPValue::LongLongInt(CONSUMER_TIMEOUT_MS),
        );
        match Self::declare_durable(link, queue, arguments).await {
            // RabbitMQ 4.3 has no timeout for consumers of classic queues, and
            // refuses an argument that sets one.
            Err(DeclareError::Refused { .. }) => Self::declare_durable(link, queue, forever).await,
            declared => declared,
        }
    }

    fn private_arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.into());
        arguments.insert("x-queue-type".into(), text("classic"));
        arguments.insert("x-dead-letter-exchange".into(), text(""));
        arguments.insert("x-dead-letter-routing-key".into(), text(&self.work));
        arguments.insert(
            "x-expires".into(),
            AMQPValue::LongLongInt(PRIVATE_EXPIRES_MS),
        );
        arguments
    }

    async fn declare_durable(
        link: &Link,
        queue: &str,
        arguments: FieldTable,
    ) -> Result<(), DeclareError> {
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        declare
            .queue(queue, QueueDeclareOptions::durable(), arguments)
            .await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(())
    }

    /// Deletes a private queue that is empty and has no consumer; else it
    /// expires by itself.
    pub async fn delete_private_work(&self, link: &Link, queue: &str) {
        let Ok(channel) = link.channel().await else {
            return;
        };
        let options = QueueDeleteOptions {
            if_unused: true,
            if_empty: true,
            ..QueueDeleteOptions::default()
        };
        let delete = channel.queue_delete(ShortString::from(queue), options);
        if let Err(error) = link.bounded("deleting a private queue", delete).await {
            tracing::debug!(%error, "a private queue is left to expire");
        }
    }

    /// Deletes a disk's queues, with what lies in them: it is gone for good.
    pub async fn delete_of_disk(&self, link: &Link, disk: Uuid) {
        for queue in [self.work_of(disk), self.records_of(disk)] {
            let Ok(channel) = link.channel().await else {
                return;
            };
            let delete =
                channel.queue_delete(ShortString::from(&*queue), QueueDeleteOptions::default());
            if let Err(error) = link.bounded("deleting a lost disk's queue", delete).await {
                tracing::warn!(%error, queue, "a lost disk's queue is left to expire");
            }
        }
    }

    /// What the broker reports of any queue to every user.
    pub async fn depth(&self, link: &Link, queue: &str) -> Result<Depth, DeclareError> {
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = declare.queue(queue, options, FieldTable::default()).await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(Depth {
            ready: found.message_count().into(),
            consumers: found.consumer_count().into(),
        })
    }

    /// A queue as that of the turns, but that one may look at what is in it, and
    /// that it goes by itself. Returns its name.
    pub(super) async fn declare_probe(&self, link: &Link) -> Result<String, DeclareError> {
        let queue = format!("{}.probe.{}", self.turns, uuid::Uuid::now_v7().simple());
        let mut arguments = Self::work_arguments();
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(PROBE_EXPIRES_MS));
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        declare.quorum_queue(&queue, arguments).await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(queue)
    }

    /// Takes the exclusive queue that keeps other processes from consuming
    /// turns; false if another process has it. It goes when the connection goes.
    pub async fn lock_turns(&self, link: &Link) -> Result<bool, DeclareError> {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        match self.declare_lock(link, options).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_locked() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether another process has it.
    pub async fn turns_are_locked(&self, link: &Link) -> Result<bool, DeclareError> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        match self.declare_lock(link, options).await {
            Ok(()) => Ok(false),
            Err(error) if error.is_locked() => Ok(true),
            Err(DeclareError::Refused { .. }) => Ok(false), // it does not exist
            Err(error) => Err(error),
        }
    }

    async fn declare_lock(
        &self,
        link: &Link,
        options: QueueDeclareOptions,
    ) -> Result<(), DeclareError> {
        // A name that a worker's user may declare, as one of its own queues.
        let queue = format!("{}.{TURNS_LOCK}", self.status);
        let channel = link.channel().await?;
        let declare = Declare {
            link,
            channel: &channel,
        };
        declare
            .queue(&queue, options, FieldTable::default())
            .await?;
        link.bounded("closing a channel", channel.close(200, "OK".into()))
            .await?;
        Ok(())
    }

    fn turns_arguments(&self) -> FieldTable {
        let mut arguments = Self::work_arguments();
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        arguments
    }

    fn work_arguments() -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-delivery-limit".into(),
            AMQPValue::LongLongInt(DELIVERY_LIMIT),
        );
        arguments.insert(
            "x-consumer-timeout".into(),
            AMQPValue::LongLongInt(CONSUMER_TIMEOUT_MS),
        );
        arguments
    }

    /// They go some time after their disk: what lies in them is made again.
    fn of_disk_arguments() -> FieldTable {
        let mut arguments = Self::work_arguments();
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(DISK_EXPIRES_MS));
        arguments
    }

    fn dead_arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        // Or RabbitMQ 4 drops what was looked at and requeued 20 times.
        arguments.insert(
            "x-delivery-limit".into(),
            AMQPValue::LongLongInt(DELIVERY_LIMIT),
        );
        arguments.insert(
            "x-max-length".into(),
            AMQPValue::LongLongInt(self.dead_letter_limit.into()),
        );
        // The oldest go: the newest show what is wrong now.
        arguments.insert(
            "x-overflow".into(),
            AMQPValue::LongString("drop-head".into()),
        );
        arguments
    }
}

/// As the end of an own queue's name.
fn is_own(name: &str) -> bool {
    name.len() == 32
        && name
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Declarations on one channel, with errors that name what was declared.
struct Declare<'a> {
    link: &'a Link,
    channel: &'a Channel,
}

impl Declare<'_> {
    async fn exchange(&self, name: &str, kind: ExchangeKind) -> Result<(), DeclareError> {
        let operation = Operation::Exchange {
            name: name.to_owned(),
        };
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let request = self.channel.exchange_declare(
            operation.short(name)?,
            kind,
            options,
            FieldTable::default(),
        );
        self.run(operation, request).await
    }

    async fn quorum_queue(
        &self,
        name: &str,
        mut arguments: FieldTable,
    ) -> Result<(), DeclareError> {
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        self.queue(name, QueueDeclareOptions::durable(), arguments)
            .await?;
        Ok(())
    }

    async fn queue(
        &self,
        name: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<Queue, DeclareError> {
        let operation = Operation::Queue {
            name: name.to_owned(),
        };
        let request = self
            .channel
            .queue_declare(operation.short(name)?, options, arguments);
        self.run(operation, request).await
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), DeclareError> {
        let operation = Operation::Binding {
            queue: queue.to_owned(),
            exchange: exchange.to_owned(),
        };
        let request = self.channel.queue_bind(
            operation.short(queue)?,
            operation.short(exchange)?,
            ShortString::from(key),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        self.run(operation, request).await
    }

    async fn run<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, DeclareError> {
        self.link
            .bounded("a declaration", request)
            .await
            .map_err(|error| DeclareError::of(operation, self.link.target(), error))
    }
}
