//! A proxy before a broker that behaves as RabbitMQ 4 does with a message that
//! it cannot convert to AMQP 0-9-1: the delivery of any message with a body that
//! holds a marker ends the connection with `INTERNAL_ERROR`. A consumer with
//! `no_ack` has it settled before.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test binary needs it, and a test fails by panicking"
)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;
/// Type, channel and size before the payload, and the end after it.
const AROUND: usize = 8;
/// A client's first words are no frame.
const PREAMBLE: usize = 8;
const CONSUME: [u8; 4] = [0, 60, 0, 20];
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const NO_ACK: u8 = 2;

pub struct UndeliverableProxy {
    /// The URL, through the proxy.
    pub url: String,
    crashes: Arc<AtomicUsize>,
}

impl UndeliverableProxy {
    pub async fn before(url: &str, marker: &'static str) -> Self {
        let (user, rest) = url.split_once('@').unwrap();
        let (broker, vhost) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let crashes = Arc::new(AtomicUsize::new(0));
        let (broker, counted) = (broker.to_owned(), Arc::clone(&crashes));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Ok(broker) = TcpStream::connect(&broker).await else {
                    continue;
                };
                let crashes = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut between = Between {
                        marker: marker.as_bytes(),
                        no_ack: HashSet::new(),
                        deliveries: HashMap::new(),
                    };
                    if between.run(client, broker).await == End::Crashed {
                        crashes.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self {
            url: format!("{user}@{address}/{vhost}"),
            crashes,
        }
    }

    /// How many connections have ended so.
    pub fn crashes(&self) -> usize {
        self.crashes.load(Ordering::SeqCst)
    }
}

#[derive(Debug, PartialEq)]
enum End {
    Closed,
    Crashed,
}

struct Between {
    marker: &'static [u8],
    /// Channels with a consumer that never acks: the proxy does it.
    no_ack: HashSet<u16>,
    deliveries: HashMap<u16, Delivery>,
}

/// One that is incomplete.
#[derive(Default)]
struct Delivery {
    tag: u64,
    left: Option<u64>,
    body: Vec<u8>,
    frames: Vec<u8>,
}

impl Between {
    async fn run(&mut self, mut client: TcpStream, mut broker: TcpStream) -> End {
        let mut preamble = [0; PREAMBLE];
        if client.read_exact(&mut preamble).await.is_err()
            || broker.write_all(&preamble).await.is_err()
        {
            return End::Closed;
        }
        let (mut said, mut heard) = (Vec::new(), Vec::new());
        loop {
            tokio::select! {
                read = client.read_buf(&mut said) => {
                    let mut out = Vec::new();
                    while let Some(frame) = next_frame(&mut said) {
                        out.extend(self.outward(frame));
                    }
                    if !matches!(read, Ok(1..)) || broker.write_all(&out).await.is_err() {
                        return End::Closed;
                    }
                }
                read = broker.read_buf(&mut heard) => {
                    let (mut out, mut acks, mut crashed) = (Vec::new(), Vec::new(), false);
                    while !crashed && let Some(frame) = next_frame(&mut heard) {
                        let from = self.inward(frame);
                        out.extend(from.to_client);
                        acks.extend(from.to_broker);
                        crashed = from.crashed;
                    }
                    let to_client = client.write_all(&out).await;
                    let to_broker = broker.write_all(&acks).await;
                    if crashed {
                        // The broker reads the ack before the end.
                        let _ = broker.shutdown().await;
                        while matches!(broker.read(&mut [0; 4096]).await, Ok(1..)) {}
                        while matches!(client.read(&mut [0; 4096]).await, Ok(1..)) {}
                        return End::Crashed;
                    }
                    if !matches!(read, Ok(1..)) || to_client.is_err() || to_broker.is_err() {
                        return End::Closed;
                    }
                }
            }
        }
    }

    fn outward(&mut self, mut frame: Vec<u8>) -> Vec<u8> {
        if frame[0] == METHOD && frame[7..11] == CONSUME {
            // After two reserved octets: the names of queue and consumer.
            let mut at = 13;
            for _ in 0..2 {
                at += 1 + usize::from(frame[at]);
            }
            if frame[at] & NO_ACK != 0 {
                frame[at] &= !NO_ACK;
                self.no_ack.insert(channel_of(&frame));
            }
        }
        frame
    }

    fn inward(&mut self, frame: Vec<u8>) -> FromBroker {
        let channel = channel_of(&frame);
        let payload = &frame[7..frame.len() - 1];
        let starts = frame[0] == METHOD && payload.starts_with(&DELIVER);
        if starts {
            let tag = 5 + usize::from(payload[4]);
            let tag = u64::from_be_bytes(payload[tag..tag + 8].try_into().unwrap());
            let delivery = Delivery {
                tag,
                ..Delivery::default()
            };
            self.deliveries.insert(channel, delivery);
        }
        let Some(delivery) = self.deliveries.get_mut(&channel) else {
            return FromBroker::passed(frame);
        };
        match frame[0] {
            HEADER => {
                let size = payload[4..12].try_into().unwrap();
                delivery.left = Some(u64::from_be_bytes(size));
            }
            BODY => {
                delivery.left = delivery.left.map(|left| left - payload.len() as u64);
                delivery.body.extend(payload);
            }
            _ if starts => {}
            // Of another conversation on this channel, between two deliveries.
            _ => return FromBroker::passed(frame),
        }
        delivery.frames.extend(frame);
        if delivery.left != Some(0) {
            return FromBroker::passed(Vec::new());
        }
        let delivery = self.deliveries.remove(&channel).unwrap();
        let mut to_broker = Vec::new();
        if self.no_ack.contains(&channel) {
            let mut ack = vec![0, 60, 0, 80];
            ack.extend(delivery.tag.to_be_bytes());
            ack.push(0);
            to_broker = method(channel, &ack);
        }
        let mut windows = delivery.body.windows(self.marker.len());
        let crashed = windows.any(|window| window == self.marker);
        let to_client = match crashed {
            true => internal_error(),
            false => delivery.frames,
        };
        FromBroker {
            to_client,
            to_broker,
            crashed,
        }
    }
}

struct FromBroker {
    to_client: Vec<u8>,
    to_broker: Vec<u8>,
    crashed: bool,
}

impl FromBroker {
    fn passed(to_client: Vec<u8>) -> Self {
        Self {
            to_client,
            to_broker: Vec::new(),
            crashed: false,
        }
    }
}

/// Takes the first whole frame out.
fn next_frame(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let size = u32::from_be_bytes(bytes.get(3..7)?.try_into().unwrap());
    let length = usize::try_from(size).unwrap() + AROUND;
    (bytes.len() >= length).then(|| bytes.drain(..length).collect())
}

fn channel_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[1], frame[2]])
}

fn method(channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![METHOD];
    frame.extend(channel.to_be_bytes());
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame.push(FRAME_END);
    frame
}

/// `connection.close` 541.
fn internal_error() -> Vec<u8> {
    const TEXT: &[u8] = b"INTERNAL_ERROR";
    let mut payload = vec![0, 10, 0, 50];
    payload.extend(541_u16.to_be_bytes());
    payload.push(TEXT.len() as u8);
    payload.extend(TEXT);
    payload.extend([0; 4]);
    method(0, &payload)
}
