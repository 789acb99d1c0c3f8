//! What the stand-in recorded of its runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::process::last_lines;

/// All runs so far, in the order in which they started.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    pub all: Vec<Run>,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub turn: String,
    pub workspace: String,
    pub pid: i32,
    /// It came to its end, rather than being killed.
    pub ended: bool,
    /// Another run was on in the workspace when this started.
    pub overlapped: bool,
}

impl Runs {
    pub(super) fn read(log: &Path, root: &Path) -> Self {
        let text = fs::read_to_string(log).unwrap_or_default();
        let root = root.canonicalize().unwrap();
        let mut runs = Self {
            all: Vec::new(),
            text: String::new(),
        };
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let &[what, dir, pid, turn, _time] = words.as_slice() else {
                panic!("the stand-in recorded {line:?}")
            };
            let pid = pid.parse().unwrap();
            // As a whole where a process has another root.
            let dir = Path::new(dir);
            let workspace = dir.strip_prefix(&root).unwrap_or(dir);
            match what {
                "start" => runs.all.push(Run {
                    turn: turn.to_owned(),
                    workspace: workspace.to_str().unwrap().to_owned(),
                    pid,
                    ended: false,
                    overlapped: false,
                }),
                "overlap" => runs.newest(pid).overlapped = true,
                "end" => runs.newest(pid).ended = true,
                _ => panic!("the stand-in recorded {line:?}"),
            }
        }
        runs.text = text;
        runs
    }

    fn newest(&mut self, pid: i32) -> &mut Run {
        let mut newest_first = self.all.iter_mut().rev();
        newest_first.find(|run| run.pid == pid).unwrap()
    }

    pub fn of_turn(&self, turn: &str) -> impl Iterator<Item = &Run> {
        self.all.iter().filter(move |run| run.turn == turn)
    }

    /// Per workspace, the turns in the order of their first starts.
    pub fn first_starts(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut starts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for run in &self.all {
            let turns = starts.entry(&run.workspace).or_default();
            if !turns.contains(&run.turn.as_str()) {
                turns.push(&run.turn);
            }
        }
        starts
    }

    /// G1 and G3: in a workspace, one at a time.
    pub(super) fn check(&self) {
        let overlapped: Vec<_> = self.all.iter().filter(|run| run.overlapped).collect();
        assert!(
            overlapped.is_empty(),
            "ran next to another: {overlapped:#?}"
        );
    }

    pub(super) fn tail(&self) -> String {
        last_lines(&self.text, 40)
    }
}
