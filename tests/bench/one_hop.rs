//! What a worker would cost without any of the guarantees, for the bench
//! to compare with: one queue, competing consumers, a lock, a process, events
//! with pipelined confirms, an ack. No order, no journal, no guard.
//!
//! `one-hop URL ROOT CODEX SLOTS`; says `ready` when it takes turns.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind, PublisherConfirm,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use turn_worker::codex::protocol::parse_line;
use turn_worker::codex::translate::Translator;
use turn_worker::event::{EventBody, Sealer, StopReason, Usage};
use turn_worker::guard::Exit;
use turn_worker::request::{Limits, Properties, TurnRequest};

/// As many unconfirmed events of a turn as the real worker allows.
const WINDOW: usize = turn_worker::amqp::outbox::WINDOW_EVENTS;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

struct Worker {
    root: PathBuf,
    codex: PathBuf,
    /// Another connection than the consumer's, as in the real worker.
    publisher: Channel,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, root, codex, slots] = args.as_slice() else {
        return Err("usage: one-hop URL ROOT CODEX SLOTS".into());
    };
    let publishing = Connection::connect(url, ConnectionProperties::default()).await?;
    let publisher = publishing.create_channel().await?;
    publisher
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let consuming = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = consuming.create_channel().await?;
    declare(&channel).await?;
    channel
        .basic_qos(slots.parse()?, BasicQosOptions::default())
        .await?;
    let options = BasicConsumeOptions::default();
    let consume = channel.basic_consume(
        "codex.turns".into(),
        "".into(),
        options,
        FieldTable::default(),
    );
    let mut deliveries = consume.await?;
    let worker = Arc::new(Worker {
        root: root.into(),
        codex: codex.into(),
        publisher,
    });
    println!("ready");
    while let Some(delivery) = deliveries.next().await {
        let (worker, delivery) = (Arc::clone(&worker), delivery?);
        tokio::spawn(async move {
            if let Err(error) = worker.run(delivery).await {
                eprintln!("a turn failed: {error}");
                std::process::exit(1);
            }
        });
    }
    Ok(())
}

async fn declare(channel: &Channel) -> Result<()> {
    for (name, kind) in [
        ("codex.requests", ExchangeKind::Direct),
        ("codex.events", ExchangeKind::Topic),
    ] {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let none = FieldTable::default();
        channel
            .exchange_declare(name.into(), kind, options, none)
            .await?;
    }
    let mut quorum = FieldTable::default();
    quorum.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let queue = "codex.turns";
    channel.queue_declare(queue.into(), options, quorum).await?;
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    channel
        .queue_bind(
            queue.into(),
            "codex.requests".into(),
            "turn".into(),
            bind,
            none,
        )
        .await?;
    Ok(())
}

impl Worker {
    async fn run(&self, delivery: Delivery) -> Result<()> {
        let request =
            TurnRequest::parse(&delivery.data, &Limits::accepted(), &Properties::default())
                .map_err(|rejection| rejection.to_string())?;
        let dir = self.root.join(request.workspace.as_str());
        let lock = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || lock(&dir)
        });
        let _lock = lock.await??;
        let began = Instant::now();
        let mut out = Events {
            channel: &self.publisher,
            sealer: Sealer::new(request.turn_id.as_str(), request.workspace.as_str(), 1),
            unconfirmed: VecDeque::new(),
        };
        let metadata = request.metadata;
        out.publish(EventBody::MessageStart {
            model: None,
            metadata,
        })
        .await?;

        let mut codex = Command::new(&self.codex)
            .args(["exec", "--json", "--skip-git-repo-check", "-"])
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = codex.stdin.take() {
            stdin.write_all(request.prompt.as_bytes()).await?;
        }
        let stdout = codex.stdout.take().ok_or("codex has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut translator = Translator::new();
        while let Some(line) = lines.next_line().await? {
            for body in translator.translate(parse_line(line.as_bytes()).map_err(|_| line)?) {
                out.publish(body).await?;
            }
        }
        let exit = Exit::Code(codex.wait().await?.code().unwrap_or(-1));
        let finished = translator.finish(&exit, "");
        for body in finished.events {
            out.publish(body).await?;
        }
        out.publish(EventBody::MessageEnd {
            stop_reason: StopReason::EndTurn,
            text: finished.last_text,
            structured: None,
            thread_id: finished.thread_id,
            superseded_by: None,
            model: None,
            duration_ms: u64::try_from(began.elapsed().as_millis())?,
            metadata: None,
            usage: Usage::of(finished.reported_total, None),
        })
        .await?;
        out.confirmed(0).await?;
        delivery.ack(BasicAckOptions::default()).await?;
        Ok(())
    }
}

fn lock(dir: &Path) -> std::io::Result<File> {
    fs::create_dir_all(dir)?;
    let file = File::create(dir.join(".lock"))?;
    file.lock()?;
    Ok(file)
}

/// A turn's events on their way out.
struct Events<'a> {
    channel: &'a Channel,
    sealer: Sealer,
    unconfirmed: VecDeque<PublisherConfirm>,
}

impl Events<'_> {
    async fn publish(&mut self, body: EventBody) -> Result<()> {
        self.confirmed(WINDOW - 1).await?;
        let event = self.sealer.seal(body, Timestamp::now());
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_correlation_id((&*event.turn_id).into())
            .with_message_id(event.message_id().into())
            .with_type(event.kind.as_str().into());
        let confirm = self.channel.basic_publish(
            "codex.events".into(),
            (&*event.turn_id).into(),
            BasicPublishOptions::default(),
            event.json.as_bytes(),
            properties,
        );
        self.unconfirmed.push_back(confirm.await?);
        Ok(())
    }

    /// Until no more than so many are unconfirmed.
    async fn confirmed(&mut self, left: usize) -> Result<()> {
        while self.unconfirmed.len() > left
            && let Some(confirm) = self.unconfirmed.pop_front()
        {
            confirm.await?;
        }
        Ok(())
    }
}
