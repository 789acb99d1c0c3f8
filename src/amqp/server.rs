//! What kind of broker it is: the client library hears that at every connect
//! and keeps it to itself.

use std::time::Duration;

use lapin::types::parsing::parse_field_table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::frames::repair_method;
use crate::config::target::Target;

const LIMIT: Duration = Duration::from_secs(5);
/// What a client says first.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Of a frame: type, channel, size.
const FRAME_HEAD: usize = 7;
/// Class, method and version of `connection.start`, before its properties.
const START_HEAD: &[u8] = &[0, 10, 0, 10, 0, 9];
/// A broker's `connection.start` has some 500 bytes.
const MAX_FRAME_BYTES: usize = 64 << 10;

/// The first RabbitMQ that can leave out of a stream what a reader does not want.
pub const FILTERS_SINCE: (u32, u32) = (3, 13);

/// As the broker presents itself, before a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub product: String,
    pub version: String,
}

impl Server {
    /// Asks on a connection of its own, used only for that. `None` where
    /// the broker does not identify itself, and over TLS, which is not worth it.
    pub async fn ask(target: &Target) -> Option<Self> {
        if target.tls {
            return None;
        }
        let start = timeout(LIMIT, start_frame(target)).await;
        Self::parse(start.ok()?.ok()?)
    }

    fn parse(mut start: Vec<u8>) -> Option<Self> {
        repair_method(&mut start);
        let properties = start.strip_prefix(START_HEAD)?;
        let (_, properties) = parse_field_table(properties).ok()?;
        let text = |name: &str| {
            let value = properties.inner().get(name)?.as_long_string()?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Some(Self {
            product: text("product")?,
            version: text("version")?,
        })
    }

    /// Whether a reader of a stream can ask for a part of it.
    pub fn filters_streams(&self) -> bool {
        (self.number()).is_none_or(|number| number >= FILTERS_SINCE)
    }

    /// Major and minor number.
    pub fn number(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

async fn start_frame(target: &Target) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    stream.write_all(PROTOCOL_HEADER).await?;
    let mut head = [0; FRAME_HEAD];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let mut frame = vec![0; size.min(MAX_FRAME_BYTES)];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(name.len()).unwrap()];
        bytes.extend(name.as_bytes());
        bytes.push(b'S');
        bytes.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value.as_bytes());
        bytes
    }

    #[test]
    fn properties_nested_without_end_are_no_broker() {
        let mut value = Vec::new();
        for _ in 0..10_000 {
            let size = u32::try_from(value.len()).unwrap().to_be_bytes();
            value = [&b"A"[..], &size, &value].concat();
        }
        let fields = [&[1, b'h'], &value[..]].concat();
        let size = u32::try_from(fields.len()).unwrap().to_be_bytes();
        let start = [START_HEAD, &size, &fields].concat();
        assert_eq!(Server::parse(start), None);
    }

    #[test]
    fn a_broker_is_known_by_its_first_words() {
        let fields = [field("product", "RabbitMQ"), field("version", "3.10.8")].concat();
        let mut start = START_HEAD.to_vec();
        start.extend(u32::try_from(fields.len()).unwrap().to_be_bytes());
        start.extend(fields);
        start.extend(b"\0\0\0\x05PLAIN\0\0\0\x05en_US");
        let server = Server::parse(start.clone()).unwrap();
        assert_eq!(server.product, "RabbitMQ");
        assert_eq!(server.number(), Some((3, 10)));
        for cut in 0..start.len() - 20 {
            assert_eq!(Server::parse(start[..cut].to_vec()), None);
        }
    }
}
