//! Which of the events under a turn id are of the turn that a reader means.
//!
//! The routing key is no proof of origin: any producer can send a turn of its
//! own, for another workspace, under an id that it has heard.

/// The workspace of the turn that is read.
#[derive(Debug, Clone)]
pub struct Origin {
    workspace: Option<String>,
}

impl Origin {
    /// `workspace`: as the request names it, by its id or by an absolute path.
    /// Of a path, or if `None` is given, the first event that fits decides.
    pub fn new(workspace: Option<String>) -> Self {
        Self { workspace }
    }

    /// Whether an event may be the turn's. Those of older workers name no
    /// workspace, and those of a rejected request may lack one.
    pub fn admits(&mut self, workspace: Option<&str>) -> bool {
        let Some(theirs) = workspace.filter(|workspace| !workspace.is_empty()) else {
            return true;
        };
        match &self.workspace {
            Some(ours) if !ours.starts_with('/') => return ours == theirs,
            Some(path) if !ends_with(path, theirs) => return false,
            _ => {}
        }
        self.workspace = Some(theirs.to_owned());
        true
    }
}

/// Only a worker knows its root, so more can't be said of a path.
fn ends_with(path: &str, id: &str) -> bool {
    let names = path.rsplit('/');
    let mut below = names.filter(|name| !matches!(*name, "" | "."));
    id.rsplit('/').all(|name| below.next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_another_workspace_are_not_the_turns() {
        let mut origin = Origin::new(Some("acme/website".to_owned()));
        for (theirs, is_ours) in [
            (Some("acme/website"), true),
            (Some("website"), false),
            (Some("other/acme/website"), false),
            (Some("acme/website/"), false),
            (Some(""), true),
            (None, true),
        ] {
            assert_eq!(origin.admits(theirs), is_ours, "{theirs:?}");
        }
    }

    #[test]
    fn the_first_event_with_a_workspace_decides_if_it_is_not_given() {
        let mut origin = Origin::new(None);
        assert!(origin.admits(None) && origin.admits(Some("")));
        assert!(origin.admits(Some("a")));
        assert!(!origin.admits(Some("b")));
        assert!(origin.admits(Some("a")) && origin.admits(None));
    }

    #[test]
    fn a_path_is_that_of_the_first_workspace_that_it_ends_with() {
        for path in ["/srv/acme/website", "/srv//acme/./website/"] {
            let mut origin = Origin::new(Some(path.to_owned()));
            for other in ["acme/web", "acme", "x/srv/acme/website"] {
                assert!(!origin.admits(Some(other)), "{path} {other}");
            }
            assert!(origin.admits(Some("acme/website")), "{path}");
            assert!(!origin.admits(Some("website")), "{path}");
        }
    }
}
