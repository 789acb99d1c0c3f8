//! What holds for any frame.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Any octets, mostly text, as a short string.
fn strings() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-zü€-]{0,20}".prop_map(String::into_bytes);
    let octets = prop_oneof![2 => text, 1 => vec(any::<u8>(), 0..=255)];
    octets.prop_map(|octets| short(&octets[..octets.len().min(255)]))
}

fn scalars() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop_oneof![
        Just((b't', 1)),
        Just((b'b', 1)),
        Just((b'B', 1)),
        Just((b's', 2)),
        Just((b'u', 2)),
        Just((b'U', 2)),
        Just((b'I', 4)),
        Just((b'i', 4)),
        Just((b'f', 4)),
        Just((b'l', 8)),
        Just((b'L', 8)),
        Just((b'd', 8)),
        Just((b'T', 8)),
        Just((b'D', 5)),
        Just((b'V', 0)),
    ];
    let fixed = (fixed, any::<u64>()).prop_map(|((kind, size), octets)| {
        [&[kind], &octets.to_ne_bytes()[..size.min(8)]].concat()
    });
    let long = (prop_oneof![Just(b'S'), Just(b'x')], vec(any::<u8>(), 0..50));
    let long = long.prop_map(|(kind, octets)| typed(kind, &octets));
    prop_oneof![fixed, long]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    scalars().prop_recursive(6, 60, 5, |inner| {
        let arrays = vec(inner.clone(), 0..5).prop_map(|values| typed(b'A', &values.concat()));
        let entries = vec((strings(), inner.clone()), 0..5);
        let tables = entries.prop_map(|entries| typed(b'F', &joined(entries)));
        let deep = (inner, 1..60_usize, any::<bool>()).prop_map(|(value, levels, arrays)| {
            (0..levels).fold(value, |value, _| match arrays {
                true => typed(b'A', &value),
                false => typed(b'F', &[short(b"k"), value].concat()),
            })
        });
        prop_oneof![3 => arrays, 3 => tables, 1 => deep]
    })
}

fn joined(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    let entries = entries.into_iter();
    entries
        .flat_map(|(name, value)| [name, value].concat())
        .collect()
}

/// Header frames as the protocol wants them, but for what is in their strings
/// and how deep they are.
fn headers() -> impl Strategy<Value = Vec<u8>> {
    let table = vec((strings(), values()), 0..5).prop_map(|entries| sized(&joined(entries)));
    let properties = (any::<u16>(), vec(strings(), 16), table, any::<u64>());
    properties.prop_map(|(flags, strings, table, number)| {
        let flags = flags & !3;
        let set = (2..16).rev().filter(|bit| flags & (1 << bit) != 0);
        let octets = set.map(|bit| match bit {
            13 => table.clone(),
            12 | 11 => vec![number as u8],
            6 => number.to_be_bytes().to_vec(),
            bit => strings[bit].clone(),
        });
        header(flags, &octets.collect::<Vec<_>>().concat())
    })
}

fn well_formed() -> impl Strategy<Value = Vec<u8>> {
    let methods = (0..3_u16, vec(any::<u8>(), 0..255), vec(any::<u8>(), 0..255));
    let methods = methods.prop_map(|(channel, exchange, key)| deliver(channel, &exchange, &key));
    let bodies = vec(any::<u8>(), 0..500).prop_map(|octets| frame(3, 1, &octets));
    prop_oneof![3 => headers(), 1 => methods, 1 => bodies]
}

/// The same with some octets changed.
fn broken() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 1..4);
    (well_formed(), changes).prop_map(|(mut frame, changes)| {
        for (at, octet) in changes {
            // Not its head and end: the broker's own.
            let content = FRAME_HEAD..frame.len() - 1;
            if !content.is_empty() {
                frame[content.start + at.index(content.len())] = octet;
            }
        }
        frame
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_well_formed_parses_afterwards_and_keeps_its_length(frame in well_formed()) {
        let done = filter(&frame);
        prop_assert_eq!(done.octets.len(), frame.len());
        let read = parsed(&done.octets);
        prop_assert!(read.is_ok(), "{:?}", read);
        prop_assert_eq!(read.unwrap().len(), 1);
        if done.repaired.is_empty() {
            prop_assert_eq!(&done.octets, &frame);
        }
    }

    #[test]
    fn what_parses_before_is_not_changed(entries in vec((strings(), scalars()), 0..5)) {
        let frame = with_headers(&joined(entries));
        if parsed(&frame).is_ok() {
            prop_assert_eq!(filter(&frame).octets, frame);
        }
    }

    #[test]
    fn no_header_ends_a_connection(frame in broken()) {
        let done = filter(&frame);
        if frame[0] == HEADER && frame.len() >= BARE_HEADER_FRAME {
            let read = parsed(&done.octets);
            prop_assert!(read.is_ok(), "{:?}", read);
            prop_assert_eq!(read.unwrap().len(), 1);
        }
    }

    #[test]
    fn twice_is_once(frames in vec(prop_oneof![well_formed(), broken()], 1..4)) {
        let once = filter(&frames.concat());
        let twice = filter(&once.octets);
        prop_assert_eq!(twice.kinds(), []);
        prop_assert_eq!(twice.octets, once.octets);
    }

    #[test]
    fn cuts_make_no_difference(
        frames in vec(prop_oneof![well_formed(), broken()], 1..4),
        pieces in vec(1..300_usize, 1..20),
        take in 1..300_usize,
    ) {
        let stream = frames.concat();
        prop_assert_eq!(filter_in(FRAME_MAX, &stream, &pieces, take), filter(&stream));
    }

    #[test]
    fn any_octets_pass(stream in vec(any::<u8>(), 0..3_000), pieces in vec(1..300_usize, 1..20)) {
        filter_in(9_000, &stream, &pieces, 1_000);
    }
}
