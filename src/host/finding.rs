//! What can be lacking, and which errors speak for it.

use std::io;

use crate::codex::program::ProgramError;
use crate::error::{is_out_of_resources, with_sources};
pub use crate::labels::Lack;
use crate::workspace::DiskError;

/// What turns need of a host, and what can be tried apart from any turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The folder of the records.
    Disk,
    /// A codex that runs, and the means to start it.
    Codex,
    /// A login with an allowance left. Turns try it, no probe does.
    Account,
}

/// What a probe found lacking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub lack: Lack,
    /// With the path, and the system's word for what is wrong.
    pub why: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "this host can't run turns ({}): {}", self.lack, self.why)
    }
}

impl From<&DiskError> for Finding {
    fn from(error: &DiskError) -> Self {
        Self {
            lack: of_system(&error.source).unwrap_or(Lack::Disk),
            why: in_one_line(error),
        }
    }
}

impl From<&ProgramError> for Finding {
    fn from(error: &ProgramError) -> Self {
        let lack = match error.is_out_of_resources() {
            true => Lack::Resources,
            false => Lack::Codex,
        };
        Self {
            lack,
            why: in_one_line(error),
        }
    }
}

fn in_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    with_sources(error).replace('\n', " ")
}

fn of_system(error: &io::Error) -> Option<Lack> {
    is_out_of_resources(error).then_some(Lack::Resources)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::codex::binary::BinaryError;
    use crate::guard::SpawnError;

    #[test]
    fn every_error_of_a_probe_names_what_is_lacking() {
        let disk = |errno: Errno| {
            Finding::from(&DiskError {
                doing: "write",
                path: "/root/x".into(),
                source: errno.into(),
            })
        };
        for (errno, lack) in [
            (Errno::NOSPC, Lack::Disk),
            (Errno::DQUOT, Lack::Disk),
            (Errno::ROFS, Lack::Disk),
            (Errno::IO, Lack::Disk),
            (Errno::ACCESS, Lack::Disk),
            (Errno::NOTDIR, Lack::Disk),
            (Errno::STALE, Lack::Disk),
            (Errno::MFILE, Lack::Resources),
            (Errno::NFILE, Lack::Resources),
            (Errno::NOMEM, Lack::Resources),
        ] {
            let finding = disk(errno);
            assert_eq!(finding.lack, lack, "{errno}");
            // The path and the system's words, for readers of /readyz.
            let said = format!("cannot write /root/x: {}", io::Error::from(errno));
            assert_eq!(finding.why, said);
        }

        let start = |errno: Errno| ProgramError::NotStarted {
            message: format!("/bin/codex: {errno}"),
            errno: Some(errno.raw_os_error()),
        };
        let guard = |errno: Errno| ProgramError::Guard {
            program: "/bin/codex".into(),
            source: SpawnError::Pipes(errno.into()),
        };
        let missing = BinaryError::NotExecutable {
            path: "/bin/codex".into(),
        };
        for (error, lack) in [
            (start(Errno::NOENT), Lack::Codex),
            (start(Errno::NOEXEC), Lack::Codex),
            (start(Errno::TXTBSY), Lack::Codex),
            (start(Errno::AGAIN), Lack::Resources),
            (start(Errno::NOMEM), Lack::Resources),
            (guard(Errno::MFILE), Lack::Resources),
            (missing.into(), Lack::Codex),
        ] {
            let finding = Finding::from(&error);
            assert_eq!(finding.lack, lack, "{error}");
            assert!(finding.why.contains("/bin/codex"), "{}", finding.why);
        }
    }
}
