//! How a fault on one of several hosts was got over: when another host went on,
//! and for how long what it went on with was not alone. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock::Nanos;
use crate::record::runs::Run;

#[derive(Debug, PartialEq, Serialize)]
pub struct Takeover {
    /// From the fault to the first start of another attempt, if there was one.
    pub next_attempt_s: Option<f64>,
    /// The longest time for which two attempts or turns worked in a workspace.
    /// It counts only codex processes that came to their end: one that is
    /// killed does not record when.
    pub side_by_side_s: f64,
}

/// `runs`: in the order in which they started.
pub fn takeover(fault: Nanos, runs: &[Run]) -> Takeover {
    let mut attempts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut newest_end: BTreeMap<&str, Nanos> = BTreeMap::new();
    let (mut next_attempt, mut side_by_side) = (None, 0);
    for run in runs {
        let attempts = attempts.entry(&run.tag).or_default();
        *attempts += 1;
        if *attempts > 1 && run.start >= fault {
            next_attempt = next_attempt.or(Some(run.start - fault));
        }
        let newest_end = newest_end.entry(&run.workspace).or_default();
        let both_until = run.end.map_or(*newest_end, |end| end.min(*newest_end));
        side_by_side = side_by_side.max(both_until.saturating_sub(run.start));
        *newest_end = run.end.unwrap_or_default().max(*newest_end);
    }
    Takeover {
        next_attempt_s: next_attempt.map(seconds),
        side_by_side_s: seconds(side_by_side),
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tag: &str, workspace: &str, start: u128, end: Option<u128>) -> Run {
        let second = 1_000_000_000;
        Run {
            tag: tag.to_owned(),
            workspace: workspace.to_owned(),
            disk: 0,
            pid: 1,
            start: start * second,
            end: end.map(|end| end * second),
            overlapped: false,
        }
    }

    #[test]
    fn a_second_attempt_beside_the_first_one_is_timed() {
        let runs = [
            run("t1", "a", 0, Some(90)),
            run("t2", "b", 5, None),
            run("t2", "b", 8, Some(9)),
            run("t1", "a", 50, Some(120)),
            run("t3", "a", 121, Some(122)),
        ];
        assert_eq!(
            takeover(10_000_000_000, &runs),
            Takeover {
                next_attempt_s: Some(40.0),
                side_by_side_s: 40.0,
            }
        );
    }

    #[test]
    fn turns_one_after_the_other_are_neither() {
        let runs = [run("t1", "a", 0, Some(9)), run("t2", "a", 10, Some(20))];
        assert_eq!(
            takeover(0, &runs),
            Takeover {
                next_attempt_s: None,
                side_by_side_s: 0.0,
            }
        );
    }
}
