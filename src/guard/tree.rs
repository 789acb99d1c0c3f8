//! Finding and ending process trees by `/proc`.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, pidfd_send_signal,
    waitpid,
};

use super::proc::{self, Stat};
use super::tag::Tag;
use super::unkillable::{Identity, is_alive};

/// All processes at about one moment.
fn look_around() -> io::Result<HashMap<i32, Stat>> {
    Ok(proc::all()?.collect())
}

/// All that descends from `roots`, parents before their children, leaving out
/// the subtrees of `spare`. No parent is younger than its child: one that seems to
/// be has got the pid of the real one, which exited while they were looked at.
fn below(
    all: &HashMap<i32, Stat>,
    roots: impl IntoIterator<Item = i32>,
    spare: &HashSet<i32>,
) -> Vec<(i32, Stat)> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (&pid, stat) in all {
        children.entry(stat.parent).or_default().push(pid);
    }
    let mut ahead: Vec<i32> = roots.into_iter().collect();
    let mut known: HashSet<i32> = ahead.iter().chain(spare).copied().collect();
    let mut found = Vec::new();
    while let Some(parent) = ahead.pop() {
        for &pid in children.get(&parent).into_iter().flatten() {
            let is_child = (all.get(&parent)).is_none_or(|of| of.started <= all[&pid].started);
            if is_child && known.insert(pid) {
                found.push((pid, all[&pid]));
                ahead.push(pid);
            }
        }
    }
    found
}

/// Signals just the process that was seen, not one that got its pid since.
fn signal((pid, seen): (i32, Stat), signal: Signal) {
    let Some(raw) = Pid::from_raw(pid) else {
        return;
    };
    let same = || proc::stat(pid).is_some_and(|now| now.started == seen.started);
    // A failure means that it is gone, or not ours to kill; the caller looks again.
    let _ = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(handle) if same() => pidfd_send_signal(handle, signal),
        // Forbidden by a container's rules: then the look just before must do.
        Err(Errno::NOSYS | Errno::PERM) if same() => kill_process(raw, signal),
        _ => Ok(()),
    };
}

/// The longest pause between two rounds at first, and once those that are left can't be
/// killed. A look costs some milliseconds.
const PAUSE: Duration = Duration::from_millis(128);
const SLOW_PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// So many looks that show only dead processes prove that no other is left.
const DEAD_LOOKS: u32 = 20;

/// Ends processes, round by round.
#[derive(Debug, Default)]
struct Hunt {
    /// Everything that was ever signalled.
    met: HashSet<Identity>,
    /// Rounds in a row that found no new process.
    idle_rounds: u32,
    /// What is left can't be killed, and is only waited for.
    slow: bool,
}

impl Hunt {
    /// Looks until a look finds no new process, stopping all: what is stopped
    /// can't fork, and still uses up the room that a fork storm needs. Then
    /// kills all, children before their parents, since the system wakes
    /// stopped children when their parent dies. Returns the last look.
    fn round(
        &mut self,
        mut look: impl FnMut() -> io::Result<Vec<(i32, Stat)>>,
    ) -> io::Result<Vec<(i32, Stat)>> {
        // So that one who can't be stopped and forks for ever is killed all the same.
        let most_looks = if self.slow { 2 } else { 100 };
        let mut found = look()?;
        let mut anybody_new = false;
        for _ in 0..most_looks {
            let mut new = false;
            for &(pid, stat) in found.iter().filter(|(_, stat)| stat.alive) {
                if self.met.insert((pid, stat.started)) {
                    signal((pid, stat), Signal::STOP);
                    new = true;
                }
            }
            if !new {
                break;
            }
            anybody_new = true;
            found = look()?;
        }
        for &process in found.iter().rev().filter(|(_, stat)| stat.alive) {
            signal(process, Signal::KILL);
        }
        self.idle_rounds = if anybody_new { 0 } else { self.idle_rounds + 1 };
        Ok(found)
    }

    /// Between two rounds: short at first, since most die at once.
    fn pause(&self) -> Duration {
        let doubled = Duration::from_millis(1 << self.idle_rounds.min(14));
        match self.slow {
            true => doubled.clamp(SLOW_PAUSE[0], SLOW_PAUSE[1]),
            false => doubled.min(PAUSE),
        }
    }

    fn count(&self) -> u64 {
        self.met.len() as u64
    }
}

fn living(found: &[(i32, Stat)]) -> Vec<Identity> {
    let living = found.iter().filter(|(_, stat)| stat.alive);
    living.map(|(pid, stat)| (*pid, stat.started)).collect()
}

/// Processes by what identifies them: pids are used again.
pub(crate) type Known = HashSet<Identity>;

/// For the guard: what lives below this process now.
pub(crate) fn living_below_me() -> io::Result<Vec<(i32, Stat)>> {
    let mut below = below(&look_around()?, [getpid().as_raw_pid()], &HashSet::new());
    below.retain(|(_, stat)| stat.alive);
    Ok(below)
}

/// How a guard clears what is below it.
pub(crate) struct Clearing<'a> {
    /// It is not counted, nor is what is `known`.
    pub codex: Option<Pid>,
    pub known: Option<&'a Known>,
    /// How long what was killed may take to end before it counts as unkillable.
    pub limit: Duration,
}

/// All are gone that were below the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cleared {
    pub leftovers: u64,
    /// Something took longer than the limit.
    pub was_overdue: bool,
    /// No zombie of it is left, either.
    pub is_reaped: bool,
}

impl Clearing<'_> {
    /// For the guard: ends everything below this process and reaps it. Returns only when
    /// all have ended, however long that takes: the lock must not be free before. Past the
    /// limit, `overdue` gets the count so far and what lives, once; from then on it is
    /// looked for seldom. `nap` waits, for a child's end or for so long.
    pub(crate) fn run(
        &self,
        mut overdue: impl FnMut(u64, &[Identity]),
        mut nap: impl FnMut(Duration),
    ) -> Cleared {
        let me = getpid().as_raw_pid();
        let mut hunt = Hunt::default();
        let (began, mut dead_looks) = (Instant::now(), 0);
        loop {
            let is_reaped = loop {
                match rustix::process::wait(WaitOptions::NOHANG) {
                    Ok(Some(_)) => {}
                    // As the subreaper of all, no child means no descendant.
                    Err(Errno::CHILD) => break true,
                    Ok(None) | Err(_) => break false,
                }
            };
            // A process that is traced from outside can't be reaped before its tracer lets go.
            if is_reaped || dead_looks >= DEAD_LOOKS {
                return Cleared {
                    leftovers: self.count(&hunt),
                    was_overdue: hunt.slow,
                    is_reaped,
                };
            }
            let found = hunt.round(|| Ok(below(&look_around()?, [me], &HashSet::new())));
            // `None` if it could not be looked: that is no proof.
            let left = found.ok().map(|found| living(&found));
            let is_dead = left.as_ref().is_some_and(Vec::is_empty);
            dead_looks = if is_dead { dead_looks + 1 } else { 0 };
            let left = left.unwrap_or_default();
            if !is_dead && !hunt.slow && began.elapsed() >= self.limit {
                hunt.slow = true;
                overdue(self.count(&hunt), &left);
            }
            nap(hunt.pause());
        }
    }

    fn count(&self, hunt: &Hunt) -> u64 {
        let codex = self.codex.map(Pid::as_raw_pid);
        let counts = |met: &&Identity| {
            Some(met.0) != codex && !self.known.is_some_and(|known| known.contains(*met))
        };
        hunt.met.iter().filter(counts).count() as u64
    }
}

/// The result of killing processes that are not children of this one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Killed {
    pub count: u64,
    /// What lives though it was killed.
    pub left: Vec<Identity>,
}

/// For the worker, when a guard was killed: its tree has fallen to the worker,
/// the next subreaper. Ends all that is below the worker and not below one of
/// `own`, the processes that the worker has started itself and not yet reaped, nor
/// known to be unkillable. Not to be called twice at a time.
pub(crate) fn kill_orphans(
    own: impl Fn() -> HashSet<i32>,
    unkillable: &HashSet<Identity>,
    limit: Duration,
) -> Killed {
    let me = getpid().as_raw_pid();
    let mut hunt = Hunt::default();
    let began = Instant::now();
    loop {
        let orphans = hunt.round(|| {
            let all = look_around()?;
            // Asked only now: what this look shows and has been started
            // meanwhile is among them.
            let mut orphans = below(&all, [me], &own());
            orphans.retain(|(pid, stat)| !unkillable.contains(&(*pid, stat.started)));
            Ok(orphans)
        });
        let count = hunt.count();
        match orphans {
            Ok(orphans) if orphans.is_empty() => {
                return Killed {
                    count,
                    left: Vec::new(),
                };
            }
            Ok(orphans) => {
                for (pid, stat) in &orphans {
                    if stat.parent == me {
                        reap(*pid);
                    }
                }
                if began.elapsed() >= limit {
                    let left = living(&orphans);
                    return Killed { count, left };
                }
            }
            Err(error) => tracing::warn!(%error, "can't look for what a guard has left"),
        }
        thread::sleep(hunt.pause());
    }
}

/// By its pid: waiting for any child would steal another's end.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Returns once all of them have ended, however long that takes.
pub(crate) fn outlive(processes: &[Identity]) {
    let mut pause = SLOW_PAUSE[0];
    while processes.iter().any(|one| is_alive(*one)) {
        kill_again(processes);
        thread::sleep(pause);
        pause = (pause * 2).min(SLOW_PAUSE[1]);
        processes.iter().for_each(|(pid, _)| reap(*pid));
    }
}

fn kill_again(processes: &[Identity]) {
    for &(pid, started) in processes {
        if let Some(stat) = proc::stat(pid).filter(|stat| stat.started == started) {
            signal((pid, stat), Signal::KILL);
        }
    }
}

/// Some two seconds, for what is not waited for under a deadline of its own.
const MOST_ROUNDS: u32 = 20;

/// Kills these, and returns which live on.
pub(crate) fn kill_known(processes: &[Identity]) -> Vec<Identity> {
    let mut left = processes.to_vec();
    for round in 0..MOST_ROUNDS {
        left.retain(|one| is_alive(*one));
        if left.is_empty() {
            break;
        }
        kill_again(&left);
        thread::sleep(Duration::from_millis(1 << round.min(7)));
    }
    left
}

/// Ends every process on this host that carries the tag, and what is below it: what
/// a guard and a worker that were killed together have left.
pub(crate) fn kill_tagged(tag: &Tag) -> Killed {
    let me = getpid().as_raw_pid();
    let mut hunt = Hunt::default();
    let mut left = Vec::new();
    while hunt.idle_rounds < MOST_ROUNDS {
        let found = hunt.round(|| {
            let all = look_around()?;
            let tagged = all
                .iter()
                .filter(|&(&pid, stat)| pid != me && stat.alive && tag.is_of(pid))
                .map(|(&pid, &stat)| (pid, stat));
            let mut found: Vec<_> = tagged.collect();
            let roots: Vec<i32> = found.iter().map(|&(pid, _)| pid).collect();
            let below = below(&all, roots, &HashSet::from([me]));
            found.extend(below.into_iter().filter(|(_, stat)| stat.alive));
            Ok(found)
        });
        match found {
            Ok(found) => left = living(&found),
            Err(error) => tracing::warn!(%error, "can't look for what an earlier attempt has left"),
        }
        if left.is_empty() {
            break;
        }
        thread::sleep(hunt.pause());
    }
    Killed {
        count: hunt.count(),
        left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_itself_below_its_parent() {
        let me = getpid().as_raw_pid();
        let all = look_around().unwrap();
        let found = below(&all, [all[&me].parent], &HashSet::new());
        assert!(found.iter().any(|(pid, _)| *pid == me));
        let found = below(&all, [all[&me].parent], &HashSet::from([me]));
        assert!(!found.iter().any(|(pid, _)| *pid == me));
    }

    fn stat(parent: i32) -> Stat {
        Stat {
            parent,
            group: 0,
            session: 0,
            alive: true,
            started: 5,
        }
    }

    /// Its pid was its own parent's a moment ago, so a foreign child seems to be below it.
    #[test]
    fn g3_the_children_of_a_pids_former_process_are_not_taken_for_its_own() {
        let reused = Stat {
            started: 9,
            ..stat(10)
        };
        let all = HashMap::from([(10, stat(1)), (11, reused), (12, stat(11)), (13, stat(10))]);
        let found = below(&all, [10], &HashSet::new());
        let mut pids: Vec<i32> = found.into_iter().map(|(pid, _)| pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [11, 13]);
    }

    #[test]
    fn finds_parents_before_their_children_and_spares_whole_subtrees() {
        let all = HashMap::from([
            (10, stat(1)),
            (11, stat(10)),
            (12, stat(11)),
            (13, stat(10)),
            (14, stat(13)),
            (20, stat(1)),
        ]);
        let pids = |spare: &[i32]| -> Vec<i32> {
            let spare = spare.iter().copied().collect();
            let found = below(&all, [10], &spare);
            found.into_iter().map(|(pid, _)| pid).collect()
        };
        let found = pids(&[]);
        assert_eq!(found.len(), 4);
        let at = |pid| found.iter().position(|found| *found == pid).unwrap();
        assert!(at(11) < at(12) && at(13) < at(14));
        let mut spared = pids(&[13]);
        spared.sort_unstable();
        assert_eq!(spared, [11, 12]);
    }
}
