//! Messages that a broker takes and delivers, and that a client may not survive.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test binary needs all of it, and a test fails by panicking"
)]

use super::raw_amqp::{RawProperties, typed};

/// A message's properties, and what they are to try.
#[derive(Debug, Clone)]
pub struct Poison {
    pub name: String,
    pub properties: RawProperties,
    /// Some broker takes no such message.
    pub may_be_refused: bool,
}

/// `basic` has so many properties that are short strings, by their bits.
const STRINGS: [(&str, u8); 10] = [
    ("content_type", 15),
    ("content_encoding", 14),
    ("correlation_id", 10),
    ("reply_to", 9),
    ("expiration", 8),
    ("message_id", 7),
    ("type", 5),
    ("user_id", 4),
    ("app_id", 3),
    ("cluster_id", 2),
];
const DELIVERY_MODE: u8 = 12;
const PRIORITY: u8 = 11;
const TIMESTAMP: u8 = 6;
/// Frames as large as RabbitMQ has them by default, and how many octets of a
/// header frame are neither its headers' nor of their only value.
const FRAME_MAX: usize = 128 << 10;
const AROUND_ONE_VALUE: usize = 8 + 14 + 4 + 2 + 5;

/// Short strings of all bad kinds, and of the largest good ones.
pub fn texts() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("Latin-1", b"J\xFCrgen".to_vec()),
        ("a truncated character", b"J\xC3".to_vec()),
        ("a surrogate", b"\xED\xA0\x80".to_vec()),
        ("255 times Latin-1", vec![0xE9; 255]),
        ("255 characters", vec![b'x'; 255]),
        ("control characters", b"\0\x1b[2J\r\n".to_vec()),
        ("nothing", vec![]),
    ]
}

/// A value that is that many containers in each other.
pub fn nested(kind: u8, levels: usize) -> Vec<u8> {
    // From the innermost length outwards, in reverse.
    let mut reversed = Vec::new();
    for _ in 0..levels {
        let size = u32::try_from(reversed.len()).unwrap();
        reversed.extend(size.to_le_bytes());
        reversed.push(kind);
        if kind == b'F' {
            reversed.extend([b'k', 1]);
        }
    }
    if kind == b'F' {
        reversed.truncate(reversed.len() - 2);
    }
    reversed.reverse();
    reversed
}

/// Each property and header with each kind of value.
pub fn matrix() -> Vec<Poison> {
    let mut all = Vec::new();
    let mut add = |name: String, may_be_refused: bool, properties: RawProperties| {
        all.push(Poison {
            name,
            properties,
            may_be_refused,
        });
    };
    let new = RawProperties::default;
    for (property, bit) in STRINGS {
        for (kind, text) in texts() {
            // The broker looks into these two itself.
            let checked = matches!(property, "user_id" | "expiration");
            let properties = new().string(bit, &text);
            add(format!("{property}: {kind}"), checked, properties);
        }
    }
    let latin1 = b"J\xFCrgen";
    let strings = STRINGS.iter().filter(|(_, bit)| !matches!(bit, 4 | 8));
    let every = strings.fold(new(), |properties, (_, bit)| {
        properties.string(*bit, latin1)
    });
    add("every property: Latin-1".to_owned(), false, every);
    for (kind, text) in texts() {
        let properties = new().header(&text, b"V");
        add(format!("name of a header: {kind}"), false, properties);
        let long = typed(b'S', &text);
        let properties = new().header(b"h", &long);
        add(format!("value of a header: {kind}"), false, properties);
        let inner = [&super::raw_amqp::short(&text)[..], b"V"].concat();
        let properties = new().header(b"h", &typed(b'F', &inner));
        add(format!("name in a table: {kind}"), false, properties);
    }
    for (kind, levels) in [
        (b'A', 33),
        (b'A', 5_000),
        (b'A', 26_000),
        (b'F', 33),
        (b'F', 5_000),
        (b'F', 18_000),
    ] {
        let properties = new().header(b"h", &nested(kind, levels));
        let name = format!("{levels} of {} in each other", char::from(kind));
        add(name, false, properties);
    }
    for (kind, size) in [
        (b't', 1),
        (b'b', 1),
        (b'B', 1),
        (b's', 2),
        (b'u', 2),
        (b'I', 4),
        (b'i', 4),
        (b'l', 8),
        (b'L', 8),
        (b'f', 4),
        (b'd', 8),
        (b'D', 5),
        (b'T', 8),
        (b'V', 0),
        (b'U', 2),
    ] {
        for octet in [0, 0x7F, 0xFF] {
            let value = [&[kind][..], &vec![octet; size]].concat();
            let properties = new().header(b"h", &value);
            let name = format!("type {} of octets {octet:02x}", char::from(kind));
            // Not a number, or not a type of every version's.
            let refused = matches!(kind, b'f' | b'd' | b'L' | b'U' | b'B' | b'u' | b'i');
            add(name, refused, properties);
        }
    }
    for kind in *b"FASx" {
        let properties = new().header(b"h", &typed(kind, b""));
        add(format!("an empty {}", char::from(kind)), false, properties);
    }
    add("no headers".to_owned(), false, new().no_headers());
    let twice = new().header(b"h", b"t\x01").header(b"h", b"V");
    add("a header twice".to_owned(), false, twice);
    let wide = typed(b'A', &vec![b'V'; 100_000]);
    add(
        "an array of 100,000 values".to_owned(),
        false,
        new().header(b"h", &wide),
    );
    let many = (0..15_000_u32).fold(new(), |properties, number| {
        properties.header(format!("{number:05}").as_bytes(), b"V")
    });
    add("15,000 headers".to_owned(), false, many);
    // RabbitMQ takes a few octets more than it has agreed to, and adds headers of its own.
    for beyond in [0, 8, 9] {
        let value = vec![b'x'; FRAME_MAX + beyond - AROUND_ONE_VALUE];
        let properties = new().header(b"h", &typed(b'S', &value));
        let name = format!("a header frame of the largest size and {beyond}");
        add(name, beyond == 9, properties);
    }
    let route = typed(b'A', &typed(b'S', latin1));
    for name in [&b"CC"[..], b"BCC"] {
        let properties = new().header(name, &route);
        let name = String::from_utf8_lossy(name).into_owned();
        add(format!("{name}: Latin-1"), false, properties);
    }
    for (property, bit) in [("delivery_mode", DELIVERY_MODE), ("priority", PRIORITY)] {
        for octet in [0, 1, 3, 255] {
            let properties = new().octets(bit, &[octet]);
            let unknown = property == "delivery_mode" && octet != 1;
            add(format!("{property} {octet}"), unknown, properties);
        }
    }
    for number in [0, 1 << 40, i64::MAX as u64, u64::MAX] {
        let properties = new().octets(TIMESTAMP, &number.to_be_bytes());
        add(format!("timestamp {number}"), false, properties);
    }
    all
}
