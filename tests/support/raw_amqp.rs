//! A producer that speaks AMQP 0-9-1 by hand, to publish what client libraries
//! refuse to send.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test binary needs all of it, and a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::io;

use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;
/// The largest body frame that every broker takes.
const PIECE: usize = 4_000;
/// Where the headers are among the properties.
const HEADERS: u8 = 13;

pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

pub fn sized(octets: &[u8]) -> Vec<u8> {
    let size = u32::try_from(octets.len()).unwrap();
    [&size.to_be_bytes()[..], octets].concat()
}

pub fn typed(kind: u8, content: &[u8]) -> Vec<u8> {
    [vec![kind], sized(content)].concat()
}

/// Properties, each in the octets that stand for it.
#[derive(Debug, Clone, Default)]
pub struct RawProperties {
    /// By the bit that announces it.
    set: BTreeMap<u8, Vec<u8>>,
    /// Of the headers, if there are any.
    entries: Option<Vec<u8>>,
}

impl RawProperties {
    pub fn string(mut self, bit: u8, text: &[u8]) -> Self {
        self.set.insert(bit, short(text));
        self
    }

    pub fn octets(mut self, bit: u8, octets: &[u8]) -> Self {
        self.set.insert(bit, octets.to_vec());
        self
    }

    /// One more header; its value with its type.
    pub fn header(mut self, name: &[u8], value: &[u8]) -> Self {
        let entries = self.entries.get_or_insert_default();
        entries.extend([&short(name)[..], value].concat());
        self
    }

    /// Headers without any.
    pub fn no_headers(mut self) -> Self {
        self.entries.get_or_insert_default();
        self
    }

    /// Flags and properties.
    fn encoded(&self) -> Vec<u8> {
        let mut set = self.set.clone();
        if let Some(entries) = &self.entries {
            set.insert(HEADERS, sized(entries));
        }
        let flags = set.keys().fold(0_u16, |flags, bit| flags | 1 << bit);
        let octets = set.into_values().rev();
        [flags.to_be_bytes().to_vec()]
            .into_iter()
            .chain(octets)
            .collect::<Vec<_>>()
            .concat()
    }
}

#[derive(Debug, Clone)]
pub struct RawMessage {
    pub exchange: String,
    pub routing_key: Vec<u8>,
    pub properties: RawProperties,
    pub body: Vec<u8>,
    /// How many octets of the body each frame has.
    pub piece: usize,
}

impl RawMessage {
    pub fn new(exchange: &str, routing_key: &[u8], properties: RawProperties, body: &[u8]) -> Self {
        Self {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_vec(),
            properties,
            body: body.to_vec(),
            piece: PIECE,
        }
    }

    fn frames(&self) -> Vec<u8> {
        let publish = [
            &[0, 60, 0, 40, 0, 0][..],
            &short(self.exchange.as_bytes()),
            &short(&self.routing_key),
            &[0],
        ];
        let size = u64::try_from(self.body.len()).unwrap().to_be_bytes();
        let header = [&[0, 60, 0, 0][..], &size, &self.properties.encoded()];
        let mut frames = frame(METHOD, 1, &publish.concat());
        frames.extend(frame(HEADER, 1, &header.concat()));
        for piece in self.body.chunks(self.piece) {
            frames.extend(frame(BODY, 1, piece));
        }
        frames
    }
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend(sized(payload));
    frame.push(FRAME_END);
    frame
}

/// What the broker made of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Taken,
    /// Its words, or how the connection ended.
    Refused(String),
}

pub struct RawProducer {
    url: String,
    /// Reopened after a refusal, which ends the channel at least.
    open: Option<BufReader<TcpStream>>,
}

impl RawProducer {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            open: None,
        }
    }

    /// Publishes, and waits for the broker's answer.
    pub async fn publish(&mut self, message: &RawMessage) -> Answer {
        match self.try_publish(message).await {
            Ok(Answer::Taken) => Answer::Taken,
            Ok(refused) => {
                self.open = None;
                refused
            }
            Err(error) => {
                self.open = None;
                Answer::Refused(error.to_string())
            }
        }
    }

    async fn try_publish(&mut self, message: &RawMessage) -> io::Result<Answer> {
        let stream = match &mut self.open {
            Some(stream) => stream,
            open => open.insert(connect(&self.url).await?),
        };
        stream.write_all(&message.frames()).await?;
        loop {
            let method = method(stream).await?;
            match method[..4] {
                [0, 60, 0, 80] => return Ok(Answer::Taken),
                [0, 60, 0, 120] => return Ok(Answer::Refused("nack".to_owned())),
                // Code and text.
                [0, 20, 0, 40] | [0, 10, 0, 50] => {
                    let text = &method[7..][..method[6].into()];
                    let text = String::from_utf8_lossy(text).into_owned();
                    return Ok(Answer::Refused(text));
                }
                _ => {}
            }
        }
    }
}

/// With one channel, 1, on which the broker confirms.
async fn connect(url: &str) -> io::Result<BufReader<TcpStream>> {
    let uri: AMQPUri = url.parse().map_err(io::Error::other)?;
    let address = (uri.authority.host.as_str(), uri.authority.port);
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    method(&mut stream).await?;
    let user = uri.authority.userinfo;
    let plain = format!("\0{}\0{}", user.username, user.password);
    let start_ok = [
        &[0, 10, 0, 11, 0, 0, 0, 0][..],
        &short(b"PLAIN"),
        &sized(plain.as_bytes()),
        &short(b"en_US"),
    ];
    send(&mut stream, 0, &start_ok.concat()).await?;
    // All that the broker allows, but no heartbeats.
    let mut tune = method(&mut stream).await?;
    tune[..4].copy_from_slice(&[0, 10, 0, 31]);
    tune[10..].fill(0);
    send(&mut stream, 0, &tune).await?;
    let open = [&[0, 10, 0, 40][..], &short(uri.vhost.as_bytes()), &[0, 0]];
    send(&mut stream, 0, &open.concat()).await?;
    method(&mut stream).await?;
    send(&mut stream, 1, &[0, 20, 0, 10, 0]).await?;
    method(&mut stream).await?;
    send(&mut stream, 1, &[0, 85, 0, 10, 0]).await?;
    method(&mut stream).await?;
    Ok(stream)
}

async fn send(stream: &mut BufReader<TcpStream>, channel: u16, method: &[u8]) -> io::Result<()> {
    stream.write_all(&frame(METHOD, channel, method)).await
}

/// The payload of the next method; anything else is passed over.
async fn method(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    loop {
        let mut head = [0; 7];
        stream.read_exact(&mut head).await?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; usize::try_from(size).unwrap() + 1];
        stream.read_exact(&mut payload).await?;
        payload.pop();
        if head[0] == METHOD {
            return Ok(payload);
        }
    }
}
