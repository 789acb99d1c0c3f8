//! Messages and reasoning, which an engine may report in pieces before it reports
//! them whole. Joined by id, the pieces are the whole.

use crc32fast::Hasher;

use super::ids::{Ids, id};
use crate::event::EventBody;

/// So many texts are under way at once; one more, and the oldest is taken for
/// given up, as codex does with what a broken connection has cut off.
const MAX_OPEN: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Thinking,
}

impl Kind {
    fn delta(self, item_id: String, text: String) -> EventBody {
        match self {
            Self::Text => EventBody::TextDelta { item_id, text },
            Self::Thinking => EventBody::ThinkingDelta { item_id, text },
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Texts of which pieces were published and not the end.
    open: Vec<Open>,
    /// The newest message, by the CLI's id for it, as long as its end is not known.
    unfinished: Option<(String, String)>,
    ids: Ids,
}

/// The most that is kept of a message with an unknown end, in bytes.
const MAX_UNFINISHED: usize = 16 << 20;

/// A text that has started. What was published of it is not kept, only enough to recognise it.
#[derive(Debug)]
struct Open {
    kind: Kind,
    /// The CLI's id for the item.
    item_id: String,
    /// The id that it is published under.
    id: String,
    told: usize,
    sum: Hasher,
}

impl Open {
    /// What is missing of the whole, if it starts with what was published.
    fn missing<'a>(&self, whole: &'a str) -> Option<&'a str> {
        let (told, missing) = whole.split_at_checked(self.told)?;
        let mut sum = Hasher::new();
        sum.update(told.as_bytes());
        (sum.finalize() == self.sum.clone().finalize()).then_some(missing)
    }
}

impl Texts {
    /// An item of that id starts, again perhaps: what was published under it before
    /// was given up.
    pub(super) fn begin(&mut self, kind: Kind, item_id: String) {
        self.take(kind, &id(item_id));
        if kind == Kind::Text {
            self.unfinished = None;
        }
    }

    /// The newest message as far as it was published, if its end was not.
    pub(super) fn take_unfinished(&mut self) -> Option<String> {
        self.unfinished.take().map(|(_, text)| text)
    }

    pub(super) fn delta(&mut self, kind: Kind, item_id: String, text: String) -> Option<EventBody> {
        if text.is_empty() {
            return None;
        }
        let item_id = id(item_id);
        let at = match self.position(kind, &item_id) {
            Some(at) => at,
            None => {
                if self.open.len() == MAX_OPEN {
                    self.open.remove(0);
                }
                if kind == Kind::Text {
                    self.unfinished = Some((item_id.clone(), String::new()));
                }
                let id = self.ids.unused(&item_id);
                self.open.push(Open {
                    kind,
                    item_id,
                    id,
                    told: 0,
                    sum: Hasher::new(),
                });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[at];
        if let Some((newest, unfinished)) = &mut self.unfinished
            && kind == Kind::Text
            && *newest == open.item_id
        {
            unfinished.push_str(&text);
        }
        if self
            .unfinished
            .as_ref()
            .is_some_and(|(_, text)| text.len() > MAX_UNFINISHED)
        {
            self.unfinished = None;
        }
        open.told += text.len();
        open.sum.update(text.as_bytes());
        Some(kind.delta(open.id.clone(), text))
    }

    /// The text is whole. If it does not start with what was published of it,
    /// that can't be undone: it is published once more, whole, under a new id.
    pub(super) fn completed(
        &mut self,
        kind: Kind,
        item_id: String,
        whole: String,
    ) -> Option<EventBody> {
        if kind == Kind::Text {
            self.unfinished = None;
        }
        if let Some(open) = self.take(kind, &id(item_id.clone())) {
            return match open.missing(&whole) {
                Some("") => None,
                Some(missing) => Some(kind.delta(open.id, missing.to_owned())),
                None => Some(kind.delta(self.ids.unused(&open.item_id), whole)),
            };
        }
        let item_id = match self.ids.is_used(&item_id) {
            true => self.ids.unused(&item_id),
            false => item_id,
        };
        Some(kind.delta(item_id, whole))
    }

    fn position(&self, kind: Kind, item_id: &str) -> Option<usize> {
        let is_it = |open: &Open| open.kind == kind && open.item_id == item_id;
        self.open.iter().position(is_it)
    }

    fn take(&mut self, kind: Kind, item_id: &str) -> Option<Open> {
        self.position(kind, item_id).map(|at| self.open.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(event: Option<EventBody>) -> Option<(String, String)> {
        event.map(|event| match event {
            EventBody::TextDelta { item_id, text } | EventBody::ThinkingDelta { item_id, text } => {
                (item_id, text)
            }
            other => panic!("{other:?}"),
        })
    }

    fn pair(id: &str, text: &str) -> Option<(String, String)> {
        Some((id.to_owned(), text.to_owned()))
    }

    #[test]
    fn of_a_whole_text_only_what_is_missing_is_published() {
        let mut texts = Texts::default();
        let kind = Kind::Text;
        assert_eq!(
            told(texts.delta(kind, "a".into(), "é1".into())),
            pair("a", "é1")
        );
        assert_eq!(told(texts.delta(kind, "a".into(), String::new())), None);
        // Another one meanwhile, and a reasoning of the same id.
        assert_eq!(
            told(texts.delta(kind, "b".into(), "x".into())),
            pair("b", "x")
        );
        let thought = texts.delta(Kind::Thinking, "a".into(), "t".into());
        assert_eq!(told(thought), pair("a#2", "t"));
        assert_eq!(
            told(texts.delta(kind, "a".into(), "2".into())),
            pair("a", "2")
        );
        assert_eq!(
            told(texts.completed(kind, "a".into(), "é123".into())),
            pair("a", "3")
        );
        assert_eq!(told(texts.completed(kind, "b".into(), "x".into())), None);
        // Never published in pieces.
        assert_eq!(
            told(texts.completed(kind, "c".into(), String::new())),
            pair("c", "")
        );
    }

    #[test]
    fn a_text_that_changed_is_published_whole_under_a_new_id() {
        for whole in ["Hi!", "Help", "", "Hé"] {
            let mut texts = Texts::default();
            texts.delta(Kind::Text, "a".into(), "Hel".into());
            let whole = texts.completed(Kind::Text, "a".into(), whole.into());
            let (id, text) = told(whole).unwrap();
            match text.as_str() {
                "p" => assert_eq!(id, "a"),
                _ => assert_eq!(id, "a#2"),
            }
        }
    }

    #[test]
    fn an_id_that_comes_again_stands_for_a_new_text() {
        let mut texts = Texts::default();
        texts.delta(Kind::Text, "a".into(), "cut o".into());
        texts.begin(Kind::Text, "a".into());
        assert_eq!(
            told(texts.delta(Kind::Text, "a".into(), "He".into())),
            pair("a#2", "He")
        );
        assert_eq!(
            told(texts.completed(Kind::Text, "a".into(), "Hey".into())),
            pair("a#2", "y")
        );
        assert_eq!(
            told(texts.completed(Kind::Text, "a".into(), "Ho".into())),
            pair("a#3", "Ho")
        );
    }

    #[test]
    fn the_newest_message_is_known_as_long_as_its_end_is_not() {
        let mut texts = Texts::default();
        let mut delta = |id: &str, text: &str| texts.delta(Kind::Text, id.into(), text.into());
        delta("broken", "off");
        delta("a", "He");
        delta("broken", "late");
        delta("a", "y");
        texts.delta(Kind::Thinking, "a".into(), "Hm".into());
        assert_eq!(texts.take_unfinished().as_deref(), Some("Hey"));
        texts.delta(Kind::Text, "b".into(), "x".into());
        texts.completed(Kind::Text, "b".into(), "x".into());
        assert_eq!(texts.take_unfinished(), None);
    }

    #[test]
    fn g10_what_is_kept_of_texts_is_bounded() {
        let mut texts = Texts::default();
        for n in 0..2 * MAX_OPEN {
            texts.delta(Kind::Text, format!("{n}"), "x".into());
        }
        assert_eq!(texts.open.len(), MAX_OPEN);
        // Given up, so that its end reads as a text of its own.
        assert_eq!(
            told(texts.completed(Kind::Text, "0".into(), "xy".into())),
            pair("0#2", "xy")
        );
    }
}
