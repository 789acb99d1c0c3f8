use proptest::prelude::*;

use super::*;

fn text(id: &str, text: &str) -> EventBody {
    EventBody::TextDelta {
        item_id: id.into(),
        text: text.into(),
    }
}

fn output(id: &str, text: &str) -> EventBody {
    EventBody::ToolOutput {
        tool_use_id: id.into(),
        text: text.into(),
    }
}

fn plan() -> EventBody {
    EventBody::Plan { items: Vec::new() }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn the_first_piece_goes_at_once_and_the_rest_within_the_window() {
    let mut all = Coalescer::new(ms(30));
    let start = Instant::now();
    assert_eq!(all.push(text("a", "1"), start), [text("a", "1")]);
    assert_eq!(all.deadline(), None);
    assert_eq!(all.push(text("a", "2"), start + ms(5)), []);
    assert_eq!(all.push(text("a", "3"), start + ms(29)), []);
    assert_eq!(all.deadline(), Some(start + ms(30)));
    assert_eq!(all.due(start + ms(29)), []);
    assert_eq!(all.due(start + ms(30)), [text("a", "23")]);
    assert_eq!(all.deadline(), None);
    // Still in the flow: the next ones are joined again.
    assert_eq!(all.push(text("a", "4"), start + ms(40)), []);
    assert_eq!(all.deadline(), Some(start + ms(60)));
    assert_eq!(all.due(start + ms(60)), [text("a", "4")]);
    // After a pause it is a first one.
    assert_eq!(all.push(text("a", "5"), start + ms(91)), [text("a", "5")]);
}

#[test]
fn a_piece_that_finds_the_deadline_passed_does_not_wait_for_the_next() {
    let mut all = Coalescer::new(ms(30));
    let start = Instant::now();
    all.push(text("a", "1"), start);
    all.push(text("a", "2"), start + ms(1));
    assert_eq!(all.push(text("a", "3"), start + ms(35)), [text("a", "2")]);
    assert_eq!(all.deadline(), Some(start + ms(65)));
}

#[test]
fn anything_else_first_lets_out_what_waits() {
    let mut all = Coalescer::new(ms(30));
    let start = Instant::now();
    all.push(text("a", "1"), start);
    all.push(text("a", "2"), start);
    assert_eq!(all.push(plan(), start), [text("a", "2"), plan()]);
    assert_eq!(all.push(text("a", "3"), start), [text("a", "3")]);
    all.push(text("a", "4"), start);
    // Another item, and another kind of the same id.
    assert_eq!(
        all.push(text("b", "5"), start),
        [text("a", "4"), text("b", "5")]
    );
    assert_eq!(all.push(output("b", "6"), start), [output("b", "6")]);
    assert_eq!(all.push(output("b", "7"), start), []);
    assert_eq!(all.flush(), [output("b", "7")]);
    assert_eq!(all.flush(), []);
}

#[test]
fn an_empty_text_is_published_as_one() {
    let mut all = Coalescer::new(ms(30));
    let start = Instant::now();
    assert_eq!(all.push(text("a", ""), start), [text("a", "")]);
}

#[test]
fn without_a_window_everything_goes_at_once() {
    let mut all = Coalescer::new(Duration::ZERO);
    let start = Instant::now();
    for piece in ["1", "2"] {
        assert_eq!(all.push(text("a", piece), start), [text("a", piece)]);
    }
}

#[test]
fn g10_a_large_text_comes_in_pieces() {
    let mut all = Coalescer::new(ms(30));
    let start = Instant::now();
    all.push(text("a", "x"), start);
    let out = all.push(text("a", &"é".repeat(MAX_PIECE)), start);
    assert_eq!(out, [text("a", &"é".repeat(MAX_PIECE / 2))]);
    assert_eq!(all.flush(), [text("a", &"é".repeat(MAX_PIECE / 2))]);
}

/// Consecutive pieces of a kind and item as one.
fn joined(events: &[EventBody]) -> Vec<(Option<Stream>, String)> {
    let mut all: Vec<(Option<Stream>, String)> = Vec::new();
    for event in events {
        match Piece::of(event.clone()) {
            Ok(Piece { stream, text }) => match all.last_mut() {
                Some((Some(last), joined)) if *last == stream => joined.push_str(&text),
                _ => all.push((Some(stream), text)),
            },
            Err(other) => all.push((None, format!("{other:?}"))),
        }
    }
    all
}

fn event() -> impl Strategy<Value = EventBody> {
    let piece = prop_oneof![
        4 => "[aé漢]{0,6}",
        1 => (0..9_000usize).prop_map(|n| "é1漢".repeat(n / 6)),
    ];
    (0..8u8, 0..2u8, piece).prop_map(|(kind, id, piece)| match kind {
        0 => plan(),
        1 => EventBody::ThinkingDelta {
            item_id: id.to_string(),
            text: piece,
        },
        2 | 3 => output(&id.to_string(), &piece),
        _ => text(&id.to_string(), &piece),
    })
}

proptest! {
    #[test]
    fn g6_all_events_are_published_in_order_and_unchanged(
        events in prop::collection::vec((event(), 0..50u64), 0..40),
    ) {
        let mut all = Coalescer::new(ms(30));
        let mut now = Instant::now();
        let mut told = Vec::new();
        for (event, pause) in &events {
            let next = now + ms(*pause);
            // As its caller does: woken when something is due.
            if let Some(deadline) = all.deadline().filter(|deadline| *deadline <= next) {
                told.extend(all.due(deadline));
                prop_assert_eq!(all.deadline(), None);
            }
            now = next;
            told.extend(all.push(event.clone(), now));
            if let Some(deadline) = all.deadline() {
                prop_assert!(deadline > now && deadline <= now + ms(30));
            }
        }
        told.extend(all.flush());
        let given: Vec<_> = events.into_iter().map(|(event, _)| event).collect();
        prop_assert_eq!(joined(&told), joined(&given));
        for event in told {
            if let Ok(piece) = Piece::of(event) {
                prop_assert!(piece.text.len() <= MAX_PIECE);
            }
        }
    }
}
