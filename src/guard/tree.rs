//! Finding and ending process trees by `/proc`.

use std::collections::{HashMap, HashSet};
use std::time::Duration;
use std::{fs, io, thread};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal, waitpid,
};

/// One process as `/proc/<pid>/stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    zombie: bool,
    /// With the pid, the process's identity: pids are used again.
    started: u64,
}

/// The fields after the name, which may itself hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // starttime is field 22; state is field 3, the parent field 4.
    let started = fields.nth(22 - 5)?.parse().ok()?;
    Some(Stat {
        parent,
        zombie: matches!(state, "Z" | "X"),
        started,
    })
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn pids() -> io::Result<Vec<i32>> {
    Ok(fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// All that descends from `root`, leaving out the subtrees of `spare`, which
/// is asked for once everything has been seen: what begins meanwhile either
/// was not seen or is spared.
fn descendants(root: i32, spare: impl FnOnce() -> HashSet<i32>) -> io::Result<HashMap<i32, Stat>> {
    let all: HashMap<i32, Stat> = pids()?
        .into_iter()
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect();
    let spare = spare();
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (&pid, stat) in &all {
        children.entry(stat.parent).or_default().push(pid);
    }
    let mut found = HashMap::new();
    let mut ahead = vec![root];
    while let Some(parent) = ahead.pop() {
        for &pid in children.get(&parent).into_iter().flatten() {
            if !spare.contains(&pid) && found.insert(pid, all[&pid]).is_none() {
                ahead.push(pid);
            }
        }
    }
    Ok(found)
}

/// Signals just the process that was seen, not one that got its pid since.
fn signal(pid: i32, seen: Stat, signal: Signal) {
    let Some(raw) = Pid::from_raw(pid) else {
        return;
    };
    if let Ok(fd) = pidfd_open(raw, PidfdFlags::empty())
        && stat(pid).is_some_and(|now| now.started == seen.started)
    {
        // A failure means that it is gone, or not ours to kill; the caller looks again.
        let _ = pidfd_send_signal(fd, signal);
    }
}

/// Stops all before it kills any, so that nothing forks meanwhile.
fn kill_round(found: &HashMap<i32, Stat>) {
    let alive = || found.iter().filter(|(_, stat)| !stat.zombie);
    for (&pid, &stat) in alive() {
        signal(pid, stat, Signal::STOP);
    }
    for (&pid, &stat) in alive() {
        signal(pid, stat, Signal::KILL);
    }
}

/// The pause between two looks: short at first, since most die at once.
fn pause(round: u32) {
    thread::sleep(Duration::from_millis(1 << round.min(7)));
}

/// For the guard: ends everything below this process and reaps it. Returns
/// only when nothing is left, however long that takes: the lock must not be
/// free before. `codex` itself is not counted as a leftover.
pub fn kill_all_below_me(codex: Option<Pid>) -> u64 {
    let me = getpid().as_raw_pid();
    let mut leftovers = HashSet::new();
    for round in 0.. {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                // As the subreaper of all, no child means no descendant.
                Err(rustix::io::Errno::CHILD) => return leftovers.len() as u64,
                Ok(None) | Err(_) => break,
            }
        }
        if let Ok(found) = descendants(me, HashSet::new) {
            kill_round(&found);
            leftovers.extend(
                found
                    .iter()
                    .filter(|(pid, stat)| !stat.zombie && Some(**pid) != codex.map(Pid::as_raw_pid))
                    .map(|(&pid, stat)| (pid, stat.started)),
            );
        }
        pause(round);
    }
    leftovers.len() as u64
}

/// For the worker, when a guard was killed: its tree has fallen to the worker,
/// the next subreaper. Ends all that is below the worker and not below one of
/// `guards`, which are alive.
pub fn kill_orphans(guards: impl Fn() -> HashSet<i32>) -> u64 {
    let me = getpid().as_raw_pid();
    let mut killed = HashSet::new();
    for round in 0.. {
        let Ok(found) = descendants(me, &guards) else {
            pause(round);
            continue;
        };
        if found.is_empty() {
            break;
        }
        kill_round(&found);
        for (&pid, stat) in &found {
            killed.insert((pid, stat.started));
            if stat.parent == me
                && let Some(pid) = Pid::from_raw(pid)
            {
                // By its pid: waiting for any child would steal a guard's end.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
        pause(round);
    }
    killed.len() as u64
}

/// Ends every process on this host whose environment holds `name=value`: what
/// a guard and a worker that were killed together have left. Sees only what
/// this user may look into.
pub fn kill_tagged(name: &str, value: &str) -> u64 {
    let tag = format!("{name}={value}").into_bytes();
    let me = getpid().as_raw_pid();
    let mut killed = HashSet::new();
    for round in 0.. {
        let found: HashMap<i32, Stat> = pids()
            .unwrap_or_default()
            .into_iter()
            .filter(|&pid| pid != me)
            .filter_map(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
                environment
                    .split(|&byte| byte == 0)
                    .any(|variable| variable == tag)
                    .then(|| Some((pid, stat(pid)?)))?
            })
            .filter(|(_, stat)| !stat.zombie)
            .collect();
        // One that can't be killed would otherwise hold the turn up for ever.
        if found.is_empty() || round > 20 {
            break;
        }
        kill_round(&found);
        killed.extend(found.iter().map(|(&pid, stat)| (pid, stat.started)));
        pause(round);
    }
    killed.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_whose_name_holds_parentheses_and_spaces() {
        let line = "4711 (a) R (b) S 12 4711 4711 0 -1 4194304 95 0 0 0 0 0 0 0 20 0 1 0 987654 2486272 188";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                parent: 12,
                zombie: false,
                started: 987_654
            })
        );
        assert_eq!(parse_stat("4711 (a"), None);
    }

    #[test]
    fn finds_itself_below_its_parent() {
        let me = getpid().as_raw_pid();
        let parent = stat(me).unwrap().parent;
        assert!(descendants(parent, HashSet::new).unwrap().contains_key(&me));
        assert!(
            !descendants(parent, || HashSet::from([me]))
                .unwrap()
                .contains_key(&me)
        );
    }
}
