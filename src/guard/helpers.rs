//! Which processes below a guard are its server's own helpers, and which ones
//! a turn has started.
//!
//! codex starts each command of an agent in a session of its own, and Linux lets
//! no process join another session. Its lasting helpers (the code-mode host, MCP
//! servers) have the server's session. The login shell that takes a snapshot of
//! the user's environment has its own, like a command, but is there before the
//! first turn is asked. An executable or a command line alone would prove
//! no proof: an agent can run the same program with the same arguments.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::proc::{self, Stat};
use super::tree::{self, Known};

/// The process in which codex runs an agent's JavaScript, beside codex's own file.
const HOST: &str = "codex-code-mode-host";

/// The threads that a host has besides its first one and those of scripts. A
/// script has a thread of its own, with the process's name, until it has ended.
const HOST_THREADS: [&str; 2] = ["tokio-", "V8 "];

/// How a server rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Settled,
    /// A helper of codex's is about to end by itself.
    Finishing,
}

/// Why a server does not rest after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unrest {
    /// Something that the turn has started lives on.
    Processes,
    /// A script of the agent's runs on in the code-mode host.
    Script,
    /// That it waits can't be noted for others to see.
    Bell,
}

/// All that lives below the guard, at about one moment.
pub(super) struct Descendants {
    codex: i32,
    living: HashMap<i32, Stat>,
}

/// What codex is started as, and what was met below it.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    /// What lived before the turn, and does not belong to it.
    own: Known,
    hosts: Known,
    /// All helpers of codex's that were met.
    pub met: Known,
}

impl Descendants {
    pub(super) fn now(codex: Pid) -> io::Result<Self> {
        Ok(Self {
            codex: codex.as_raw_pid(),
            living: tree::living_below_me()?.into_iter().collect(),
        })
    }

    /// Of all that lives, in bytes.
    pub(super) fn memory(&self) -> u64 {
        self.living.keys().map(|pid| proc::memory(*pid)).sum()
    }

    fn is_of_servers_session(&self, stat: &Stat) -> bool {
        let codex = self.living.get(&self.codex);
        codex.is_some_and(|codex| codex.session == stat.session)
    }

    /// The leader of another session than the server's, started by codex itself.
    fn leader(&self, stat: &Stat) -> Option<(i32, u64)> {
        let leader = self.living.get(&stat.session);
        let leader = leader.filter(|leader| leader.parent == self.codex)?;
        (!self.is_of_servers_session(stat)).then_some((stat.session, leader.started))
    }

    /// Whether it only belongs to a session that codex has started, as what a
    /// profile runs does. Its place there ends with the session's leader.
    fn follows(&self, pid: i32, stat: &Stat) -> bool {
        let has_leader = self.living.contains_key(&stat.session);
        stat.session != pid
            && !self.is_of_servers_session(stat)
            && (!has_leader || self.leader(stat).is_some())
    }
}

impl Helpers {
    /// A turn is about to start.
    pub(super) fn mark(&mut self, look: &Descendants) {
        let own = look.living.iter();
        let own = own.filter(|(pid, stat)| !look.follows(**pid, stat));
        self.own = own.map(|(pid, stat)| (*pid, stat.started)).collect();
        self.met.clone_from(&self.own);
    }

    /// MCP servers have started: what lives in the server's session is theirs. Not so what
    /// is still codex itself, between fork and exec.
    pub(super) fn adopt(&mut self, look: &Descendants) {
        let probe = HostFiles::of(look.codex);
        self.adopt_with(look, |pid| probe.is_codex(pid));
    }

    fn adopt_with(&mut self, look: &Descendants, is_codex: impl Fn(i32) -> bool) {
        for (&pid, stat) in &look.living {
            if look.is_of_servers_session(stat) && !is_codex(pid) {
                self.own.insert((pid, stat.started));
                self.met.insert((pid, stat.started));
            }
        }
    }

    /// From now on, no process counts as known.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// After a turn.
    pub(super) fn judge(&mut self, look: &Descendants) -> Result<Rest, Unrest> {
        self.judge_with(look, &HostFiles::of(look.codex))
    }

    fn judge_with(&mut self, look: &Descendants, probe: &impl HostProbe) -> Result<Rest, Unrest> {
        let (mut rest, mut found) = (Rest::Settled, Ok(()));
        let mut hosts = 0;
        for (&pid, stat) in &look.living {
            let identity = (pid, stat.started);
            if look.leader(stat).is_some_and(|of| self.own.contains(&of)) {
                rest = Rest::Finishing;
                self.met.insert(identity);
            } else if self.is_host(look, pid, stat, probe) && hosts == 0 {
                hosts += 1;
                self.hosts.insert(identity);
                self.met.insert(identity);
                if probe.runs_script(pid) {
                    found = found.and(Err(Unrest::Script));
                }
            } else if !self.own.contains(&identity) && pid != look.codex {
                found = Err(Unrest::Processes);
            }
        }
        found.map(|()| rest)
    }

    fn is_host(&self, look: &Descendants, pid: i32, stat: &Stat, probe: &impl HostProbe) -> bool {
        // Also where its file was replaced since it was first met.
        self.hosts.contains(&(pid, stat.started))
            || stat.parent == look.codex && look.is_of_servers_session(stat) && probe.is_host(pid)
    }
}

/// What only the system knows of a process.
trait HostProbe {
    fn is_host(&self, pid: i32) -> bool;
    fn runs_script(&self, pid: i32) -> bool;
}

struct HostFiles {
    /// codex's file and the host's beside it, by device and inode.
    codex: Option<(u64, u64)>,
    host: Option<(u64, u64)>,
}

impl HostFiles {
    fn of(codex: i32) -> Self {
        let exe = fs::read_link(executable(codex)).ok();
        Self {
            codex: file(&executable(codex)),
            host: exe.and_then(|exe| file(&exe.with_file_name(HOST))),
        }
    }

    /// Also where that can't be found out.
    fn is_codex(&self, pid: i32) -> bool {
        let file = file(&executable(pid));
        file.is_none() || self.codex.is_none() || file == self.codex
    }
}

impl HostProbe for HostFiles {
    fn is_host(&self, pid: i32) -> bool {
        self.host.is_some() && file(&executable(pid)) == self.host
    }

    fn runs_script(&self, pid: i32) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return true;
        };
        let names = threads.filter_map(|thread| fs::read(thread.ok()?.path().join("comm")).ok());
        let others = names.filter(|name| {
            !HOST_THREADS
                .iter()
                .any(|of| name.starts_with(of.as_bytes()))
        });
        others.count() > 1
    }
}

fn file(path: &Path) -> Option<(u64, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

fn executable(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/exe"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const GUARD: i32 = 1;
    const CODEX: i32 = 10;
    const SHELL: i32 = 20;

    #[derive(Default)]
    struct Fixed {
        hosts: HashSet<i32>,
        scripts: HashSet<i32>,
    }

    impl HostProbe for Fixed {
        fn is_host(&self, pid: i32) -> bool {
            self.hosts.contains(&pid)
        }

        fn runs_script(&self, pid: i32) -> bool {
            self.scripts.contains(&pid)
        }
    }

    fn process(pid: i32, parent: i32, session: i32) -> (i32, Stat) {
        let stat = Stat {
            parent,
            group: pid,
            session,
            alive: true,
            started: 100,
        };
        (pid, stat)
    }

    fn look(processes: &[(i32, i32, i32)]) -> Descendants {
        let codex = process(CODEX, GUARD, GUARD);
        let others = processes
            .iter()
            .map(|&(pid, parent, session)| process(pid, parent, session));
        Descendants {
            codex: CODEX,
            living: [codex].into_iter().chain(others).collect(),
        }
    }

    /// What is judged after a turn that started with these alive, and left those.
    fn judged(before: &[(i32, i32, i32)], after: &[(i32, i32, i32)]) -> Result<Rest, Unrest> {
        let mut helpers = Helpers::default();
        helpers.mark(&look(before));
        let probe = Fixed {
            hosts: HashSet::from([30, 31]),
            scripts: HashSet::from([31]),
        };
        helpers.judge_with(&look(after), &probe)
    }

    #[test]
    fn g3_a_server_rests_with_its_own_helpers_and_without_its_turns_processes() {
        let mcp = (11, CODEX, GUARD);
        let host = (30, CODEX, GUARD);
        let settled = Ok(Rest::Settled);
        let processes = Err(Unrest::Processes);
        for (what, before, after, judged_as) in [
            ("nothing else", &[][..], &[][..], settled),
            ("an MCP server", &[mcp], &[mcp], settled),
            ("a host of this turn", &[mcp], &[mcp, host], settled),
            ("a host of an earlier one", &[host], &[host], settled),
            (
                "a script that runs on",
                &[],
                &[(31, CODEX, GUARD)],
                Err(Unrest::Script),
            ),
            (
                "one in an earlier host",
                &[(31, CODEX, GUARD)],
                &[(31, CODEX, GUARD)],
                Err(Unrest::Script),
            ),
            ("two hosts", &[], &[host, (31, CODEX, GUARD)], processes),
            (
                "a command that runs the host's file",
                &[],
                &[(30, CODEX, 30)],
                processes,
            ),
            (
                "what it started",
                &[],
                &[(30, 40, 40), (40, CODEX, 40)],
                processes,
            ),
            (
                "a child of the host",
                &[],
                &[host, (33, 30, GUARD)],
                processes,
            ),
            (
                "a child of an MCP server",
                &[mcp],
                &[mcp, (12, 11, GUARD)],
                processes,
            ),
            ("a new MCP server", &[], &[mcp], processes),
            ("a command", &[], &[(40, CODEX, 40)], processes),
            ("a daemon", &[], &[(41, GUARD, 41)], processes),
            // Its session's leader was started by a command.
            (
                "a daemon's child",
                &[],
                &[(41, GUARD, 41), (42, 41, 41)],
                processes,
            ),
        ] {
            assert_eq!(judged(before, after), judged_as, "{what}");
        }
    }

    #[test]
    fn g3_a_snapshot_finishes_as_long_as_its_shell_lives() {
        let (shell, child) = ((SHELL, CODEX, SHELL), (21, SHELL, SHELL));
        for (what, before, after, judged_as) in [
            (
                "its child",
                &[shell][..],
                &[shell, child][..],
                Ok(Rest::Finishing),
            ),
            ("alone", &[shell, child], &[shell], Ok(Rest::Finishing)),
            ("gone", &[shell, child], &[], Ok(Rest::Settled)),
            // What the profile leaves is no helper.
            (
                "what outlives it",
                &[shell, child],
                &[(21, GUARD, SHELL)],
                Err(Unrest::Processes),
            ),
            (
                "an orphan of an earlier one",
                &[child],
                &[child],
                Err(Unrest::Processes),
            ),
            // The shell's number was given to a command.
            (
                "a command's session",
                &[],
                &[shell, child],
                Err(Unrest::Processes),
            ),
        ] {
            assert_eq!(judged(before, after), judged_as, "{what}");
        }
    }

    #[test]
    fn g3_what_mcp_servers_start_while_they_start_is_theirs_and_no_command_is() {
        let mcp = (11, CODEX, GUARD);
        let of_mcp = (12, 11, GUARD);
        // Before it has a session of its own.
        let command = (13, CODEX, GUARD);
        let adopted = |after: &[(i32, i32, i32)]| {
            let mut helpers = Helpers::default();
            helpers.mark(&look(&[mcp]));
            helpers.adopt_with(&look(&[mcp, of_mcp, command, (14, CODEX, 14)]), |pid| {
                pid == 13
            });
            helpers.judge_with(&look(after), &Fixed::default())
        };
        assert_eq!(adopted(&[mcp, of_mcp]), Ok(Rest::Settled));
        for later in [(13, CODEX, 13), (14, CODEX, 14), (15, 11, GUARD)] {
            assert_eq!(adopted(&[mcp, later]), Err(Unrest::Processes));
        }
    }

    #[test]
    fn g3_only_what_lived_before_the_turn_counts_and_not_its_number() {
        let mut helpers = Helpers::default();
        helpers.mark(&look(&[(SHELL, CODEX, SHELL)]));
        let mut later = look(&[(SHELL, CODEX, SHELL), (21, SHELL, SHELL)]);
        for stat in later
            .living
            .values_mut()
            .filter(|stat| stat.session == SHELL)
        {
            stat.started = 101;
        }
        let judged = helpers.judge_with(&later, &Fixed::default());
        assert_eq!(judged, Err(Unrest::Processes));
    }
}
