//! The filter alone, and against lapin's own parser.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, parse_frame};
use amq_protocol::types::AMQPValue;

use super::*;

mod properties;

const FRAME_MAX: u32 = 128 << 10;
/// What a broker and a client said, and what the broker delivered.
const SESSION: &[u8] = include_bytes!("../../../tests/fuzz/seeds/frames/session");

/// Less than lapin's own thread has, by far.
const STACK_BYTES: usize = 512 << 10;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap();
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend(size.to_be_bytes());
    frame.extend(payload);
    frame.push(FRAME_END);
    frame
}

/// A header frame on channel 1, by flags and what they announce.
fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    payload.extend(flags.to_be_bytes());
    payload.extend(properties);
    frame(HEADER, 1, &payload)
}

fn sized(octets: &[u8]) -> Vec<u8> {
    let size = u32::try_from(octets.len()).unwrap();
    [&size.to_be_bytes()[..], octets].concat()
}

/// A header frame with headers only.
fn with_headers(entries: &[u8]) -> Vec<u8> {
    header(1 << 13, &sized(entries))
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn typed(kind: u8, content: &[u8]) -> Vec<u8> {
    [vec![kind], sized(content)].concat()
}

/// Headers with one entry that holds that many containers in each other.
fn nested(kind: u8, levels: usize) -> Vec<u8> {
    let mut value = typed(kind, &[]);
    for _ in 1..levels {
        if kind == b'F' {
            value.splice(0..0, short(b"k"));
        }
        value = typed(kind, &value);
    }
    [short(b"h"), value].concat()
}

fn deliver(channel: u16, exchange: &[u8], routing_key: &[u8]) -> Vec<u8> {
    let payload = [
        &[0, 60, 0, 60][..],
        &short(b"tag"),
        &[0, 0, 0, 0, 0, 0, 0, 1, 0],
        &short(exchange),
        &short(routing_key),
    ];
    frame(METHOD, channel, &payload.concat())
}

#[derive(Debug, Default, PartialEq)]
struct Filtered {
    octets: Vec<u8>,
    /// Exchange, routing key, and what was repaired.
    repaired: Vec<(String, String, Repairs)>,
}

impl Filtered {
    fn kinds(&self) -> Vec<(&'static str, u64)> {
        let kinds = RepairKind::ALL.into_iter().map(|kind| {
            let repaired = self.repaired.iter();
            let count = repaired.map(|(.., repairs)| repairs.of(kind)).sum();
            (kind.as_str(), count)
        });
        kinds.filter(|(_, count)| *count > 0).collect()
    }
}

/// Passes octets through a filter, read in pieces of these lengths (the last
/// one over and over) and handed over in pieces of `take`.
fn filter_in(frame_max: u32, octets: &[u8], pieces: &[usize], take: usize) -> Filtered {
    let mut filter = FrameFilter::new(frame_max);
    let mut found = Filtered::default();
    let mut left = octets;
    let mut pieces = pieces.iter().copied();
    let mut piece = usize::MAX;
    while !left.is_empty() {
        piece = pieces.next().unwrap_or(piece).max(1);
        let space = filter.space();
        let read = space.len().min(piece).min(left.len());
        space[..read].copy_from_slice(&left[..read]);
        left = &left[read..];
        filter.filled(read, &mut |frame| {
            let RepairedFrame {
                repairs,
                exchange,
                routing_key,
            } = *frame;
            let route = (exchange.to_owned(), routing_key.to_owned());
            found.repaired.push((route.0, route.1, repairs));
        });
        loop {
            let mut out = vec![0; take];
            let taken = filter.take(&mut out);
            found.octets.extend(&out[..taken]);
            if taken == 0 {
                break;
            }
        }
    }
    found
}

fn filter(octets: &[u8]) -> Filtered {
    filter_in(FRAME_MAX, octets, &[], 64 << 10)
}

/// As lapin reads it: all frames, up to what is not whole. `Err` if it would
/// close the connection; a stack overflow ends the test.
fn parsed(octets: &[u8]) -> Result<Vec<AMQPFrame>, String> {
    let parse = || {
        let mut frames = Vec::new();
        let mut left = octets;
        while !left.is_empty() {
            match parse_frame(left) {
                Ok((rest, frame)) => {
                    frames.push(frame);
                    left = rest;
                }
                Err(error) if error.is_incomplete() => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(frames)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, parse).unwrap().join().unwrap()
    })
}

fn content(octets: &[u8]) -> AMQPContentHeader {
    match parsed(octets).unwrap().remove(0) {
        AMQPFrame::Header(_, content) => content,
        other => panic!("{other:?}"),
    }
}

/// What the entry `name` of the headers is afterwards.
fn value(octets: &[u8], name: &str) -> AMQPValue {
    let headers = content(octets).properties.headers().clone().unwrap();
    headers.inner()[name].clone()
}

#[test]
fn octets_that_are_no_utf8_become_question_marks() {
    for (text, expected) in [
        (&b"J\xFCrgen"[..], "J?rgen"),
        ("Jürgen €𝄞".as_bytes(), "Jürgen €𝄞"),
        // Truncated by the end of the string.
        (b"a\xC3", "a?"),
        (b"a\xF0\x9D\x84", "a???"),
        // Overlong, a surrogate, beyond the last character.
        (b"\xC0\x80", "??"),
        (b"\xED\xA0\x80.", "???."),
        (b"\xF4\x90\x80\x80", "????"),
        (b"\xFFa\x80", "?a?"),
        (&[0xE9; 255], &"?".repeat(255)),
        (b"", ""),
    ] {
        // As content type, name of a header, and user, all of them bad.
        let properties = [
            short(text),
            sized(&[&short(text)[..], b"V"].concat()),
            short(text),
        ];
        let frame = header(1 << 15 | 1 << 13 | 1 << 4, &properties.concat());
        let done = filter(&frame);
        assert_eq!(done.octets.len(), frame.len());
        let properties = content(&done.octets).properties;
        assert_eq!(
            properties.content_type().as_ref().unwrap().as_str(),
            expected
        );
        assert_eq!(properties.user_id().as_ref().unwrap().as_str(), expected);
        assert_eq!(value(&done.octets, expected), AMQPValue::Void);
        let bad = str::from_utf8(text).is_err();
        let kinds = if bad { vec![("string", 3)] } else { vec![] };
        assert_eq!(done.kinds(), kinds, "{text:?}");
        assert_eq!(parsed(&frame).is_err(), bad, "{text:?}");
    }
}

#[test]
fn long_strings_may_hold_any_octets() {
    let frame = with_headers(&[short(b"s"), typed(b'S', b"J\xFCrgen")].concat());
    assert_eq!(filter(&frame).octets, frame);
}

#[test]
fn what_is_nested_deeper_than_the_limit_becomes_octets() {
    for kind in *b"AF" {
        // The headers are the first level.
        let frame = with_headers(&nested(kind, MAX_DEPTH - 1));
        assert_eq!(filter(&frame), filter(&filter(&frame).octets));
        assert_eq!(filter(&frame).octets, frame);
        assert!(parsed(&frame).is_ok());
        for levels in [MAX_DEPTH, 5_000, 18_000] {
            let frame = with_headers(&nested(kind, levels));
            let done = filter(&frame);
            assert_eq!(done.kinds(), [("depth", 1)], "{levels}");
            assert_eq!(done.octets.len(), frame.len());
            assert!(parsed(&done.octets).is_ok());
        }
    }
}

#[test]
fn many_arrays_side_by_side_are_not_deep() {
    let elements = typed(b'A', b"").repeat(100);
    let frame = with_headers(&[short(b"h"), typed(b'A', &elements)].concat());
    assert_eq!(filter(&frame).octets, frame);
}

#[test]
fn a_nested_table_that_can_not_be_read_becomes_octets() {
    for content in [
        &b"\x01aZ"[..],
        b"\x01a",
        b"\x09a",
        b"\x01aS\0\0\0\x09x",
        b"\0",
    ] {
        for kind in *b"AF" {
            let entries = [short(b"bad"), typed(kind, content), short(b"good")];
            let frame = with_headers(&[&entries.concat()[..], b"t\x01"].concat());
            let done = filter(&frame);
            assert_eq!(done.octets.len(), frame.len());
            let octets = AMQPValue::ByteArray(content.to_vec().into());
            assert_eq!(value(&done.octets, "bad"), octets);
            assert_eq!(value(&done.octets, "good"), AMQPValue::Boolean(true));
            assert_eq!(done.kinds(), [("table", 1)]);
        }
    }
}

#[test]
fn headers_that_can_not_be_read_keep_their_length() {
    for length in 2..=300 {
        let bad = [&b"\x01a"[..], &vec![0xFE; length - 2]].concat();
        let frame = header(1 << 13 | 1 << 12, &[&sized(&bad)[..], &[2]].concat());
        let done = filter(&frame);
        assert_eq!(done.octets.len(), frame.len(), "{length}");
        let properties = content(&done.octets).properties;
        assert_eq!(*properties.delivery_mode(), Some(2));
        let headers = properties.headers().clone().unwrap();
        assert_eq!(headers.inner().len(), 1);
        if length >= 6 {
            let octets = AMQPValue::ByteArray(bad[6..].to_vec().into());
            assert_eq!(headers.inner()[""], octets);
        }
        assert_eq!(done.kinds(), [("table", 1)], "{length}");
    }
}

#[test]
fn properties_without_structure_are_left_out() {
    for properties in [
        // One octet is no table, and can't be made one.
        header(1 << 13, &sized(b"\0")),
        header(1 << 13, b"\0\0\0\x09x"),
        header(1 << 15, b"\x09x"),
        header(1 << 12, b""),
        header(1 << 6, b"\0\0"),
        // More than the flags announce, and an unknown flag.
        header(1 << 12, b"\x02\x02"),
        header(1, b"\0\0"),
    ] {
        let after = frame(8, 0, b"");
        let done = filter(&[&properties[..], &after].concat());
        assert_eq!(done.octets, [header(0, b""), after].concat());
        assert_eq!(done.kinds(), [("table", 1)]);
        assert!(parsed(&properties).is_err());
    }
}

#[test]
fn a_header_that_lapin_would_find_too_large_loses_its_properties() {
    let limit = FRAME_MAX as usize;
    let filled = |whole: usize| {
        let octets = vec![b'x'; whole - BARE_HEADER_FRAME - 11];
        let frame = with_headers(&[short(b"h"), typed(b'S', &octets)].concat());
        assert_eq!(frame.len(), whole);
        frame
    };
    let largest = filled(limit);
    assert_eq!(filter(&largest).octets, largest);
    for whole in [limit + 1, limit + 8, 4 * limit] {
        let stream = [&filled(whole)[..], &frame(3, 1, b"{}")].concat();
        let bare = [header(0, b""), frame(3, 1, b"{}")].concat();
        for pieces in [vec![], vec![1; 60], vec![7_000, 1, 1]] {
            let done = filter_in(FRAME_MAX, &stream, &pieces, 10_000);
            assert_eq!(done.octets, bare);
            assert_eq!(done.kinds(), [("size", 1)]);
        }
    }
}

#[test]
fn the_broker_may_want_smaller_frames() {
    let tune = |frame_max: u32| {
        let payload = [
            &[0, 10, 0, 30, 7, 255][..],
            &frame_max.to_be_bytes(),
            &[0, 60],
        ];
        frame(METHOD, 0, &payload.concat())
    };
    let octets = [short(b"h"), typed(b'S', &[b'x'; 10_000])].concat();
    let large = with_headers(&octets);
    for (frame_max, kept) in [(0, true), (1 << 30, true), (9_000, false), (1, false)] {
        let done = filter(&[tune(frame_max), large.clone()].concat());
        let expected = if kept { &large } else { &header(0, b"") };
        assert_eq!(done.octets, [&tune(frame_max), &expected[..]].concat());
    }
    // But no smaller ones than lapin agrees on.
    let octets = [short(b"h"), typed(b'S', &[b'x'; 8_000])].concat();
    let stream = [tune(4_096), with_headers(&octets)].concat();
    assert_eq!(filter(&stream).octets, stream);
}

#[test]
fn headers_of_too_many_values_become_one() {
    let entry = |values| [short(b"h"), typed(b'A', &vec![b'V'; values])].concat();
    let most = with_headers(&entry(MAX_VALUES - 1));
    assert_eq!(filter(&most).octets, most);
    for entries in [
        entry(MAX_VALUES),
        entry(100_000),
        b"\x01aV".repeat(30_000),
        [nested(b'A', 20), entry(MAX_VALUES)].concat(),
    ] {
        let frame = with_headers(&entries);
        let done = filter(&frame);
        assert_eq!(done.octets.len(), frame.len());
        assert_eq!(done.kinds(), [("size", 1)]);
        let headers = content(&done.octets).properties.headers().clone();
        assert_eq!(headers.unwrap().inner().len(), 1);
    }
}

#[test]
fn each_method_with_strings_of_others_is_repaired() {
    let bad = short(b"J\xFCrgen");
    let good = short(b"J?rgen");
    let tag = [0, 0, 0, 0, 0, 0, 0, 1, 0];
    for (class, method, parts) in [
        (10, 50, vec![&[1, 44][..], &bad, &[0, 0, 0, 0]]),
        (10, 60, vec![&bad]),
        (20, 40, vec![&[1, 148][..], &bad, &[0, 60, 0, 40]]),
        (50, 11, vec![&bad, &[0, 0, 0, 1, 0, 0, 0, 2]]),
        (60, 21, vec![&bad]),
        (60, 30, vec![&bad, &[1]]),
        (60, 31, vec![&bad]),
        (60, 50, vec![&[1, 56][..], &bad, &bad, &bad]),
        (60, 60, vec![&bad, &tag, &bad, &bad]),
        (60, 71, vec![&tag[..], &bad, &bad, &[0, 0, 0, 9]]),
    ] {
        let with = |strings: &[u8]| {
            let parts = parts.iter().map(|part| match *part == &bad[..] {
                true => strings,
                false => part,
            });
            let arguments: Vec<u8> = parts.flatten().copied().collect();
            frame(
                METHOD,
                1,
                &[&[0, class, 0, method], &arguments[..]].concat(),
            )
        };
        let done = filter(&with(&bad));
        assert_eq!(done.octets, with(&good), "{class}, {method}");
        let read = parsed(&done.octets);
        assert!(read.is_ok(), "{class}, {method}: {read:?}");
        assert!(parsed(&with(&bad)).is_err());
    }
    let start = |table: &[u8]| {
        let parts = [
            &[0, 10, 0, 10, 0, 9][..],
            &sized(table),
            &sized(b"PLAIN"),
            &sized(b"en_US"),
        ];
        frame(METHOD, 0, &parts.concat())
    };
    let done = filter(&start(&nested(b'F', 5_000)));
    assert!(parsed(&done.octets).is_ok());
    assert_eq!(done.kinds(), [("depth", 1)]);
}

#[test]
fn what_is_repaired_is_named_by_its_route() {
    let bad = with_headers(&[&short(b"\xFF")[..], b"V"].concat());
    let on_another = [deliver(2, b"codex.control", b"k"), bad.clone()].concat();
    let stream = [deliver(1, b"codex.requests", b"J\xFCrgen"), bad, on_another].concat();
    let done = filter(&stream);
    let routes = done
        .repaired
        .iter()
        .map(|(exchange, key, _)| [exchange, key]);
    let of_requests = ["codex.requests", "J?rgen"];
    let routes: Vec<_> = routes.collect();
    assert_eq!(routes, [of_requests, of_requests, ["", ""]]);
}

#[test]
fn frames_of_other_kinds_pass_as_they_come() {
    for kind in [3, 8, 4, 0, 255] {
        for size in [0, 1, 40_000, 200_000] {
            let whole = frame(kind, 1, &vec![0xFF; size]);
            // Each octet at once, without waiting for the end.
            assert_eq!(filter(&whole).octets, whole);
            let cut = &whole[..whole.len() - 1];
            assert_eq!(filter(cut).octets, cut);
        }
    }
    // Too small for what they should hold: lapin has to find that out.
    for kind in [METHOD, HEADER] {
        for size in 0..MIN_HEADER {
            let frame = frame(kind, 1, &vec![0; size]);
            assert_eq!(filter(&frame).octets, frame);
        }
    }
}

#[test]
fn a_brokers_refusal_of_the_version_passes() {
    let refusal = b"AMQP\0\0\x09\x01 and more \x02";
    assert_eq!(filter(refusal).octets, refusal);
}

#[test]
fn a_frame_is_held_back_until_it_is_whole() {
    let whole = deliver(1, b"e", b"J\xFCrgen");
    let done = filter(&whole[..whole.len() - 1]);
    assert_eq!(done.octets, b"");
    assert_eq!(done.kinds(), []);
}

#[test]
fn a_session_is_the_same_wherever_it_is_cut() {
    let whole = filter(SESSION);
    assert!(parsed(SESSION).is_err());
    assert!(parsed(&whole.octets).unwrap().len() > 30);
    assert!(whole.kinds().len() > 1, "{:?}", whole.kinds());
    for cut in 1..SESSION.len() {
        assert_eq!(
            filter_in(FRAME_MAX, SESSION, &[cut, usize::MAX], 64 << 10),
            whole
        );
    }
    for piece in [1, 2, 3, 5, 7, 8, 100, 4_096] {
        assert_eq!(filter_in(FRAME_MAX, SESSION, &[piece], piece), whole);
    }
}

#[test]
fn the_buffer_is_small_again_after_a_large_frame() {
    let mut filter = FrameFilter::new(FRAME_MAX);
    let large = with_headers(&[short(b"h"), typed(b'S', &[b'x'; 120_000])].concat());
    for octet in large.chunks(1_000) {
        filter.space()[..octet.len()].copy_from_slice(octet);
        filter.filled(octet.len(), &mut |_| {});
    }
    while filter.take(&mut [0; 10_000]) > 0 {}
    assert_eq!(filter.space().len(), READ_BYTES);
}
