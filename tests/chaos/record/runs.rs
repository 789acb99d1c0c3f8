//! What the stand-in recorded of its runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::clock::Nanos;
use crate::processes::{is_guard, lives, parent};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The prompt's first word: the turn's id, unless it is another body's.
    pub tag: String,
    pub workspace: String,
    /// Which of the roots it is in.
    pub disk: usize,
    pub pid: i32,
    pub start: Nanos,
    /// When codex was done by itself, rather than killed.
    pub end: Option<Nanos>,
    /// Something of an earlier run lived when this started.
    pub overlapped: bool,
}

/// All runs so far, in the order in which they started.
pub fn read(stand_in_dir: &Path, roots: &[PathBuf]) -> Vec<Run> {
    let text = fs::read_to_string(stand_in_dir.join("log")).unwrap_or_default();
    parse(&text, roots)
}

fn parse(text: &str, roots: &[PathBuf]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let &[what, dir, pid, tag, time] = words.as_slice() else {
            continue;
        };
        let dir = Path::new(dir);
        let mut places = roots.iter().enumerate();
        let place = places.find_map(|(disk, root)| Some((disk, dir.strip_prefix(root).ok()?)));
        let (disk, workspace) = place.unwrap_or((0, dir));
        let (Ok(pid), Ok(time)) = (pid.parse(), time.parse()) else {
            continue;
        };
        if what == "start" {
            runs.push(Run {
                tag: tag.to_owned(),
                workspace: workspace.display().to_string(),
                disk,
                pid,
                start: time,
                end: None,
                overlapped: false,
            });
        } else if let Some(run) = (runs.iter_mut().rev())
            // On several hosts a process id alone may be two processes.
            .find(|run| run.pid == pid && run.tag == tag)
        {
            match what {
                "overlap" => run.overlapped = true,
                "end" => run.end = Some(time),
                _ => {}
            }
        }
    }
    runs
}

/// One that is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub tag: String,
    pub codex: i32,
    pub guard: i32,
    pub worker: Option<i32>,
}

pub fn running(runs: &[Run]) -> Vec<Running> {
    let on = runs
        .iter()
        .filter(|run| run.end.is_none() && lives(run.pid));
    let running = on.filter_map(|run| {
        let guard = parent(run.pid).filter(|guard| is_guard(*guard))?;
        Some(Running {
            tag: run.tag.clone(),
            codex: run.pid,
            guard,
            worker: parent(guard),
        })
    });
    running.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_that_two_hosts_have_is_two_processes() {
        let log = "start /r/a 7 t1 100\nstart /r/b 7 t2 150\nend /r/a 7 t1 200\n";
        let ends: Vec<_> = parse(log, &["/r".into()])
            .into_iter()
            .map(|run| (run.tag, run.end))
            .collect();
        assert_eq!(
            ends,
            [("t1".to_owned(), Some(200)), ("t2".to_owned(), None)]
        );
    }

    #[test]
    fn a_log_is_runs_in_the_order_of_their_starts() {
        let log = "start /r/a/b 7 t1 100\noverlap /r/a/b 7 t1 101\nstart /r/c 8 t2 150\n\
                   end /r/a/b 7 t1 200\nstart /r/a/b 7 t3 300\n";
        let runs = parse(log, &["/r".into()]);
        let run = |tag: &str, workspace: &str, pid, start, end, overlapped| Run {
            tag: tag.to_owned(),
            workspace: workspace.to_owned(),
            disk: 0,
            pid,
            start,
            end,
            overlapped,
        };
        assert_eq!(
            runs,
            [
                run("t1", "a/b", 7, 100, Some(200), true),
                run("t2", "c", 8, 150, None, false),
                run("t3", "a/b", 7, 300, None, false),
            ]
        );
    }
}
