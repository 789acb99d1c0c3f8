//! What the broker's operator can do to a pool on the shared node.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test binary needs all of it, and a test fails by panicking"
)]

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicQosOptions, ExchangeDeleteOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};

use super::broker::Broker;

pub struct Operator {
    url: String,
    vhost: String,
    _connection: Connection,
    channel: Channel,
}

/// A consumer with a connection of its own.
pub struct Stranger {
    // Not dropped before the connection is closed: a cancel returns no messages.
    consumer: Consumer,
    connection: Connection,
}

impl Stranger {
    async fn new(url: &str, queue: &str, prefetch: u16) -> Self {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(url, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        qos.await.unwrap();
        let options = BasicConsumeOptions::default();
        let arguments = FieldTable::default();
        let consume = channel.basic_consume(queue.into(), "".into(), options, arguments);
        Self {
            consumer: consume.await.unwrap(),
            connection,
        }
    }

    pub async fn end(self) {
        self.connection.close(200, "OK".into()).await.unwrap();
    }
}

impl Operator {
    pub async fn of(url: &str) -> Self {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(url, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self {
            url: url.to_owned(),
            vhost: url.rsplit('/').next().unwrap().to_owned(),
            _connection: connection,
            channel,
        }
    }

    /// With everything in it.
    pub async fn delete_queue(&self, queue: &str) {
        let options = QueueDeleteOptions::default();
        let delete = self.channel.queue_delete(queue.into(), options);
        delete.await.unwrap();
    }

    /// A foreign program that consumes and never acks.
    pub async fn consume(&self, queue: &str) -> Stranger {
        Stranger::new(&self.url, queue, 1).await
    }

    /// Holds `count` messages of a queue and closes, upon which the broker has
    /// them back: what a consumer with that prefetch does that dies.
    pub async fn hold_and_return(&self, queue: &str, count: u16) {
        let mut stranger = Stranger::new(&self.url, queue, count).await;
        for _ in 0..count {
            stranger.consumer.next().await.unwrap().unwrap();
        }
        stranger.end().await;
    }

    pub async fn purge(&self, queue: &str) -> u32 {
        let options = QueuePurgeOptions::default();
        let purge = self.channel.queue_purge(queue.into(), options);
        purge.await.unwrap()
    }

    /// With all bindings to it.
    pub async fn delete_exchange(&self, exchange: &str) {
        let options = ExchangeDeleteOptions::default();
        let delete = self.channel.exchange_delete(exchange.into(), options);
        delete.await.unwrap();
    }

    /// How many queues are bound to these exchanges.
    pub async fn bindings(&self, exchanges: &[&str]) -> usize {
        let Self { vhost, .. } = self;
        let names: Vec<_> = exchanges
            .iter()
            .map(|name| format!(r#"<<"{name}">>"#))
            .collect();
        let names = names.join(", ");
        self.count(format!(
            r#"length([Binding || Name <- [{names}], Binding <- rabbit_binding:list_for_source(
                {{resource, <<"{vhost}">>, exchange, Name}})])."#
        ))
        .await
    }

    /// Closes the connections with a name that matches a pattern; returns how many.
    pub async fn close_connections(&self, pattern: &str) -> usize {
        let Self { vhost, .. } = self;
        self.count(format!(
            r#"length([rabbit_networking:close_connection(Pid, "a test wants it so") ||
                [{{pid, Pid}}, {{vhost, <<"{vhost}">>}}, {{client_properties, Properties}}]
                    <- rabbit_networking:connection_info_all([pid, vhost, client_properties]),
                {{_, _, Name}} <- [lists:keyfind(<<"connection_name">>, 1, Properties)],
                re:run(Name, <<"{pattern}">>) =/= nomatch])."#
        ))
        .await
    }

    /// Deletes all queues with a name that matches a pattern;
    /// returns how many.
    pub async fn delete_queues(&self, pattern: &str) -> usize {
        let Self { vhost, .. } = self;
        self.count(format!(
            r#"length([rabbit_amqqueue:delete(Queue, false, false, <<"a test">>) ||
                Queue <- rabbit_amqqueue:list(<<"{vhost}">>),
                re:run(element(4, amqqueue:get_name(Queue)), <<"{pattern}">>) =/= nomatch])."#
        ))
        .await
    }

    async fn count(&self, expression: String) -> usize {
        let eval = move || Broker::eval(&expression);
        // Proxies and readers go on while it waits.
        let told = tokio::task::spawn_blocking(eval).await.unwrap();
        told.trim().parse().unwrap()
    }
}
