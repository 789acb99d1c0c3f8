use serde_json::{Value, json};

use super::*;

fn names(body: &[u8]) -> (Option<String>, Option<String>) {
    let Scan {
        turn_id, workspace, ..
    } = Scan::of(body);
    (turn_id, workspace)
}

fn id(body: &str) -> Option<String> {
    names(body.as_bytes()).0
}

const REQUEST: &str =
    r#"{"turn_id":"t-1","workspace":"a/b","messages":[{"role":"user","content":"x"}]}"#;

fn both() -> (Option<String>, Option<String>) {
    (Some("t-1".to_owned()), Some("a/b".to_owned()))
}

#[test]
fn names_are_found_with_errors_elsewhere() {
    let with = |more: &str| REQUEST.replacen('{', &format!("{{{more},"), 1);
    let deep = |n: usize| format!(r#""x":{}{}"#, "[".repeat(n), "]".repeat(n));
    let broken = [
        REQUEST.to_owned(),
        with(r#""x":"say: \ud83d""#),
        with(r#""x":"\""#).replace(r#""\","#, r#""\"","#),
        with(r#""x":1e400"#),
        with(r#""x":NaN"#),
        with(r#""x":"\q\u12""#),
        with("\"x\":\"a\nb\u{0}\""),
        with(&deep(200)),
        with(&deep(100_000)),
        with(&format!(r#""x":[{}0]"#, "0,".repeat(70_000))),
        with(&format!(r#""x":"{}""#, "x".repeat(300_000))),
        with("// comment\n\"x\":1,"),
        format!("{REQUEST}\n{REQUEST}"),
        format!("{REQUEST}]]}}"),
        format!("data: {REQUEST}"),
        REQUEST[..REQUEST.len() - 20].to_owned(),
    ];
    for body in &broken {
        assert_eq!(
            names(body.as_bytes()),
            both(),
            "{}",
            &body[..80.min(body.len())]
        );
    }
    let latin = REQUEST.replace('x', "J\u{fc}rgen");
    let latin: Vec<u8> = latin.chars().map(|c| c as u8).collect();
    assert_eq!(names(&latin), both());
}

#[test]
fn only_fields_of_the_outermost_object_count_and_of_two_the_last() {
    for (body, found) in [
        (r#"{"x":{"turn_id":"inner"},"turn_id":"t"}"#, Some("t")),
        (r#"{"x":{"turn_id":"inner"}}"#, None),
        (r#"{"x":[{"turn_id":"inner"}]}"#, None),
        (
            r#"{"messages":"\"turn_id\":\"forged\"","turn_id":"t"}"#,
            Some("t"),
        ),
        (r#"{"x":"turn_id","y":"z"}"#, None),
        (r#"{"turn_id":"a","turn_id":"b"}"#, Some("b")),
        (r#"{"turn_id":"a","turn_id":7}"#, None),
        (r#"{"turn_id":"a","turn_id":null}"#, None),
        (r#"{"turn_id" : "a" , "turn_id":"b"#, Some("a")),
        (r#"{"turn_id":"a","turn_id":"#, Some("a")),
        (r#"{"turn\u005fid":"t\u002d1"}"#, Some("t-1")),
        (r#"{"turn_id":"cut"#, None),
        (r#"{"turn_id":"\ud83d\ude00"}"#, Some("\u{1f600}")),
        (r#"{"turn_id":"\ud83dx"}"#, Some("\u{fffd}x")),
        (r#"{"turnid":"a"}"#, None),
        ("Fix the failing test", None),
        ("", None),
    ] {
        assert_eq!(id(body).as_deref(), found, "{body}");
    }
}

#[test]
fn an_object_in_arrays_is_found_if_there_is_one_id() {
    let celery = format!(r#"[[{REQUEST}], {{}}, {{"callbacks": null, "chain": null}}]"#);
    assert_eq!(names(celery.as_bytes()), both());
    assert_eq!(names(format!("[{REQUEST}]").as_bytes()), both());
    assert_eq!(names(format!("[{REQUEST},{REQUEST}]").as_bytes()), both());
    assert_eq!(id(r#"[{"turn_id":"a"},{"turn_id":"b"}]"#), None);
    assert_eq!(id(r#"[{"x":{"turn_id":"a"}}]"#), None);
}

#[test]
fn other_encodings_are_seen_through() {
    let units = |unit: usize, little: bool, mark: bool| {
        let mark = mark.then_some('\u{feff}');
        let chars = mark.into_iter().chain(REQUEST.chars());
        chars
            .flat_map(|c| {
                let bytes = u32::from(c).to_be_bytes();
                let mut bytes = bytes[4 - unit..].to_vec();
                if little {
                    bytes.reverse();
                }
                bytes
            })
            .collect::<Vec<u8>>()
    };
    for (unit, form) in [(2, BodyForm::Utf16), (4, BodyForm::Utf32)] {
        for (little, mark) in [(true, true), (true, false), (false, true), (false, false)] {
            let body = units(unit, little, mark);
            assert_eq!(Scan::of(&body).form, form, "{unit} {little} {mark}");
            assert_eq!(names(&body), both(), "{unit} {little} {mark}");
        }
    }
    let marked = format!("\u{feff}{REQUEST}");
    assert_eq!(names(marked.as_bytes()), both());
    assert_eq!(Scan::of(marked.as_bytes()).form, BodyForm::ByteOrderMark);
    let twice = json!(REQUEST).to_string();
    assert_eq!(names(twice.as_bytes()), both());
    assert_eq!(names(&twice.as_bytes()[..twice.len() - 10]), both());

    let length = u8::try_from(REQUEST.len()).unwrap();
    for head in [
        vec![0, 0x53, 0x77, 0xa1, length],
        vec![0, 0x53, 0x77, 0xb1, 0, 0, 0, length],
        vec![0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x77, 0xa1, length],
    ] {
        let body = [&head, REQUEST.as_bytes()].concat();
        assert_eq!(Scan::of(&body).form, BodyForm::Amqp10);
        assert_eq!(names(&body), both());
    }
    for (body, name) in [
        (&b"\x1f\x8b\x08\x00"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x78\x9c", "zlib"),
    ] {
        assert_eq!(Scan::of(body).form, BodyForm::Compressed(name));
    }
}

#[test]
fn depth_and_end_are_measured() {
    let scan = Scan::of(br#" {"x":[[1]], "y":"]}"} more"#);
    assert_eq!((scan.depth, scan.end), (3, Some(22)));
    assert_eq!(Scan::of(b"{").end, None);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            "[\\\\\"{}\\[\\]:,u0-9 ]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            let key = prop_oneof![
                Just("turn_id".to_owned()),
                Just("workspace".to_owned()),
                ".{0,6}"
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// The last of each name counts, as for serde_json.
    fn object() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            4 => Just("turn_id".to_owned()),
            2 => Just("workspace".to_owned()),
            4 => ".{0,6}"
        ];
        let space = prop_oneof![Just(""), Just(" "), Just("\n\t")];
        prop::collection::vec((key, space, json_value()), 0..6).prop_map(|fields| {
            let fields = fields.into_iter().map(|(key, space, value)| {
                format!("{space}{}{space}:{space}{value}{space}", json!(key))
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Scan::of(&body);
        }

        #[test]
        fn no_broken_json_makes_it_panic(body in "[\\\\\"{}\\[\\]:,ud8 \u{feff}\u{0}a-f]{0,200}") {
            let _ = Scan::of(body.as_bytes());
        }

        #[test]
        fn it_agrees_with_serde_json_on_valid_objects(body in object()) {
            let value: Value = serde_json::from_str(&body).unwrap();
            let text = |field: &str| value[field].as_str().map(str::to_owned);
            let scan = Scan::of(body.as_bytes());
            prop_assert_eq!(&scan.turn_id, &text("turn_id"));
            if scan.turn_id.is_some() {
                prop_assert_eq!(&scan.workspace, &text("workspace"));
            }
            prop_assert_eq!(scan.end, Some(body.len()));
        }

        #[test]
        fn a_prefix_with_the_id_in_it_gives_that_id(before in object(), id in "[A-Za-z0-9._-]{1,20}", cut in 0_usize..2000) {
            let before = before.strip_suffix('}').unwrap().replace("turn_id", "turn_ix");
            let comma = if before.len() > 1 { "," } else { "" };
            let head = format!("{before}{comma}\"turn_id\":\"{id}\"");
            let whole = format!(r#"{head},"messages":[{{"role":"user","content":"é \" x"}}]}}"#);
            let end = head.len() + cut % (whole.len() - head.len() + 1);
            let found = Scan::of(&whole.as_bytes()[..end]).turn_id;
            prop_assert_eq!(found, Some(id));
        }
    }
}
