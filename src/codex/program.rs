//! The codex that is installed just now. An upgrade may move or replace it
//! while the worker runs, and meanwhile there may be none.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::binary::{self, BinaryError};
use super::stderr;
use crate::guard;

/// codex tells its version within a tenth of a second.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Cheap to clone; all clones know of the same program.
#[derive(Debug, Clone)]
pub struct Program {
    /// As the operator names it.
    name: String,
    /// Where that is looked for.
    search_path: OsString,
    now: Arc<Mutex<Now>>,
}

#[derive(Debug)]
struct Now {
    path: PathBuf,
    /// The file that was last seen to run.
    tried: Option<Identity>,
    /// Whether it ran when it was last tried.
    runs: bool,
    generation: u64,
}

/// Another file, or one that was written to since, has another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    path: PathBuf,
    inode: (u64, u64),
    size: u64,
    written: (i64, i64),
}

/// Why there is no codex that runs.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error(transparent)]
    Missing(#[from] BinaryError),
    #[error("can't run {} --version", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} --version took longer than {} s", program.display(), VERSION_LIMIT.as_secs())]
    TimedOut { program: PathBuf },
    #[error("{} --version failed ({status}): {stderr}", program.display())]
    Failed {
        program: PathBuf,
        status: ExitStatus,
        stderr: String,
    },
}

impl Program {
    /// See [`binary::resolve`].
    pub fn find(name: &str, search_path: OsString) -> Result<Self, BinaryError> {
        let path = binary::resolve(name, &search_path)?;
        Ok(Self {
            name: name.to_owned(),
            search_path,
            now: Arc::new(Mutex::new(Now {
                path,
                tried: None,
                runs: false,
                generation: 0,
            })),
        })
    }

    /// The native binary, where it was when it was last seen to run.
    pub fn path(&self) -> PathBuf {
        self.now().path.clone()
    }

    /// Rises with each other file that was seen to run.
    pub fn generation(&self) -> u64 {
        self.now().generation
    }

    /// Whether what would be found now is the very file that ran when it was
    /// last tried. Costs a few looks at the file system.
    pub fn is_as_tried(&self) -> bool {
        let found = binary::resolve(&self.name, &self.search_path);
        let identity = found.ok().and_then(|path| Identity::of(&path));
        let now = self.now();
        now.runs && identity.is_some() && identity == now.tried
    }

    /// Looks for codex anew, and lets it tell its version: `codex-cli 0.169.0`
    /// → `0.169.0`. From now on, this is the one that is run.
    pub async fn version(&self, env: &[(String, String)]) -> Result<String, ProgramError> {
        self.now().runs = false;
        let path = binary::resolve(&self.name, &self.search_path)?;
        // Before it is run: one that is replaced meanwhile is tried again.
        let identity = Identity::of(&path);
        let version = tell_version(&path, env).await?;
        let mut now = self.now();
        now.generation += u64::from(now.tried != identity);
        now.path = path;
        now.tried = identity;
        now.runs = true;
        Ok(version)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell_version(program: &Path, env: &[(String, String)]) -> Result<String, ProgramError> {
    let start = |source| ProgramError::Start {
        program: program.to_owned(),
        source,
    };
    let mut command = Command::new(program);
    command
        .arg("--version")
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let (child, _own) = guard::own::start(&mut command).map_err(start)?;
    let output = timeout(VERSION_LIMIT, child.wait_with_output()).await;
    let output = output
        .map_err(|_| ProgramError::TimedOut {
            program: program.to_owned(),
        })?
        .map_err(start)?;
    if !output.status.success() {
        return Err(ProgramError::Failed {
            program: program.to_owned(),
            status: output.status,
            stderr: stderr::clean_tail(&String::from_utf8_lossy(&output.stderr)),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().last().unwrap_or("unknown");
    Ok(version.to_owned())
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let meta = path.metadata().ok()?;
        Some(Self {
            path: path.to_owned(),
            inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            written: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Written by another process: what this one has open for writing can't
    /// be run, and a child of another test may have inherited it.
    fn script(path: &Path, text: &str) {
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
            .arg(path)
            .arg(format!("#!/bin/sh\n{text}\n"))
            .status();
        assert!(written.unwrap().success());
    }

    #[tokio::test]
    async fn an_upgrade_that_moves_codex_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (one, two, link) = (dir.join("1"), dir.join("2"), dir.join("codex"));
        script(&one, "echo codex-cli 1");
        script(&two, "echo codex-cli 2");
        symlink(&one, &link).unwrap();
        let program = Program::find(link.to_str().unwrap(), OsString::new()).unwrap();
        assert_eq!(program.path(), one);
        assert!(!program.is_as_tried());
        for _ in 0..2 {
            assert_eq!(program.version(&[]).await.unwrap(), "1");
            assert!(program.is_as_tried());
            assert_eq!(program.generation(), 1);
        }

        fs::remove_file(&link).unwrap();
        assert!(!program.is_as_tried());
        let missing = program.version(&[]).await.unwrap_err();
        assert!(matches!(missing, ProgramError::Missing(_)), "{missing}");
        assert_eq!((program.path(), program.generation()), (one, 1));

        symlink(&two, &link).unwrap();
        assert!(!program.is_as_tried());
        assert_eq!(program.version(&[]).await.unwrap(), "2");
        assert_eq!((program.path(), program.generation()), (two.clone(), 2));
        assert!(program.is_as_tried());
        // In its place, but no more the same.
        script(&two, "echo codex-cli 2.1");
        assert!(!program.is_as_tried());
    }

    #[tokio::test]
    async fn one_that_does_not_run_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codex");
        for (text, says) in [
            ("echo libfoo.so: not found >&2; exit 127", "libfoo.so"),
            ("kill -9 $$", "signal: 9"),
        ] {
            script(&path, text);
            let program = Program::find(path.to_str().unwrap(), OsString::new()).unwrap();
            let error = program.version(&[]).await.unwrap_err();
            assert!(matches!(error, ProgramError::Failed { .. }), "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert!(!program.is_as_tried());
        }
    }
}
