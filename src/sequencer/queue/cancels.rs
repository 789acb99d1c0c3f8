//! Cancels that were heard lately.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many are remembered: as many as turns are held by default.
pub(super) const MOST: usize = 10_000;

/// For how long. A cancel overtakes its turn for as long as the turn lies in
/// `codex.turns` beyond the backlog window, which may be hours; that it meets a
/// turn it was not meant for takes an id that was used again.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Without a workspace: every turn of that id.
type Key = (Arc<str>, Option<Arc<str>>);

#[derive(Debug, Default)]
pub(super) struct Cancels {
    heard: HashMap<Key, Instant>,
    /// Oldest first. A cancel that is heard again stands here twice; the older
    /// entry no longer agrees with `heard` and removes no other.
    by_age: VecDeque<(Instant, Key)>,
}

impl Cancels {
    pub(super) fn remember(
        &mut self,
        now: Instant,
        turn_id: Arc<str>,
        workspace: Option<Arc<str>>,
    ) {
        let key = (turn_id, workspace);
        self.heard.insert(key.clone(), now);
        self.by_age.push_back((now, key));
        while let Some((at, _)) = self.by_age.front()
            && (self.by_age.len() > MOST || is_old(*at, now))
            && let Some((at, key)) = self.by_age.pop_front()
        {
            if self.heard.get(&key) == Some(&at) {
                self.heard.remove(&key);
            }
        }
    }

    pub(super) fn names(&self, now: Instant, turn_id: &Arc<str>, workspace: &Arc<str>) -> bool {
        [None, Some(Arc::clone(workspace))]
            .into_iter()
            .filter_map(|workspace| self.heard.get(&(Arc::clone(turn_id), workspace)))
            .any(|at| !is_old(*at, now))
    }
}

fn is_old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arc(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn a_cancel_without_a_workspace_names_the_turn_in_any() {
        let now = Instant::now();
        let mut cancels = Cancels::default();
        cancels.remember(now, arc("any"), None);
        cancels.remember(now, arc("one"), Some(arc("a")));
        assert!(cancels.names(now, &arc("any"), &arc("a")));
        assert!(cancels.names(now, &arc("any"), &arc("b")));
        assert!(cancels.names(now, &arc("one"), &arc("a")));
        assert!(!cancels.names(now, &arc("one"), &arc("b")));
        assert!(!cancels.names(now, &arc("other"), &arc("a")));
    }

    #[test]
    fn the_newest_are_kept_and_hearing_one_again_makes_it_new() {
        let now = Instant::now();
        let mut cancels = Cancels::default();
        cancels.remember(now, arc("first"), None);
        cancels.remember(now, arc("again"), None);
        for n in 0..MOST {
            if n == MOST - 10 {
                cancels.remember(now + Duration::from_secs(1), arc("again"), None);
            }
            cancels.remember(now, arc(&n.to_string()), None);
        }
        assert!(!cancels.names(now, &arc("first"), &arc("a")));
        assert!(cancels.names(now, &arc("again"), &arc("a")));
        assert!(cancels.by_age.len() <= MOST && cancels.heard.len() <= MOST);
    }

    #[test]
    fn old_ones_are_forgotten() {
        let now = Instant::now();
        let mut cancels = Cancels::default();
        cancels.remember(now, arc("t"), None);
        assert!(cancels.names(now + KEPT - Duration::from_secs(1), &arc("t"), &arc("a")));
        assert!(!cancels.names(now + KEPT, &arc("t"), &arc("a")));
        cancels.remember(now + KEPT, arc("u"), None);
        assert_eq!(cancels.heard.len(), 1);
    }
}
