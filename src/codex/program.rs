//! The codex that is installed just now. An upgrade may move or replace it
//! while the worker runs, and be absent meanwhile.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::binary::{self, BinaryError};
use super::identity::FileIdentity;
use super::stderr;
use crate::config::EngineKind;
use crate::error::{is_out_of_resources, with_sources};
use crate::guard::Exit;
use crate::guard::confine::{Limits, User};
use crate::guard::{GuardSpec, Guards, SpawnError};
use crate::versions;

/// codex reports its version, and whether it is logged in, within a tenth of a second.
const WORDS_LIMIT: Duration = Duration::from_secs(10);
const MAX_OUTPUT: u64 = 64 << 10;

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
    tried: Option<FileIdentity>,
    /// Whether it ran when it was last tried.
    runs: bool,
    generation: u64,
}

/// All that codex is started with, for any purpose.
#[derive(Debug, Clone)]
pub struct Launch {
    pub guards: Guards,
    /// Decides how old codex may be.
    pub engine: EngineKind,
    /// The agent's environment: the allowed variables that are set.
    pub env: Vec<(String, String)>,
    /// The user that codex runs as, if not the worker's.
    pub user: Option<User>,
    pub limits: Limits,
    /// How long a turn's processes may take to end once they are killed.
    pub kill_timeout: Duration,
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
    #[error("can't run {} --version", program.display())]
    Guard {
        program: PathBuf,
        #[source]
        source: SpawnError,
    },
    #[error("the guard of {} --version died", program.display())]
    GuardLost { program: PathBuf },
    /// The message names the program.
    #[error("can't run {message}")]
    NotStarted { message: String, errno: Option<i32> },
    #[error("{} --version took longer than {} s", program.display(), WORDS_LIMIT.as_secs())]
    TimedOut { program: PathBuf },
    #[error("{} --version failed ({how}): {stderr}", program.display())]
    Failed {
        program: PathBuf,
        how: String,
        stderr: String,
    },
    /// It would fail turns, if not the first ones.
    #[error("{}: {why}", program.display())]
    TooOld { program: PathBuf, why: String },
}

impl ProgramError {
    /// See [`is_out_of_resources`].
    pub fn is_out_of_resources(&self) -> bool {
        match self {
            Self::Start { source, .. } => is_out_of_resources(source),
            Self::Guard { source, .. } => source.is_out_of_resources(),
            Self::NotStarted { errno, .. } => {
                errno.is_some_and(|errno| is_out_of_resources(&io::Error::from_raw_os_error(errno)))
            }
            _ => false,
        }
    }
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
        let identity = found.ok().and_then(|path| FileIdentity::of(&path));
        let now = self.now();
        now.runs && identity.is_some() && identity == now.tried
    }

    /// Looks for codex again and asks for its version: `codex-cli 0.171.0`
    /// → `0.171.0`. From now on, this is the one that is run.
    pub async fn version(&self, launch: &Launch) -> Result<String, ProgramError> {
        self.now().runs = false;
        let path = binary::resolve(&self.name, &self.search_path)?;
        // Before it is run: one that is replaced meanwhile is retried.
        let identity = FileIdentity::of(&path);
        let version = report_version(&path, launch).await?;
        if let Some(why) = versions::codex_too_old(&version, launch.engine) {
            return Err(ProgramError::TooOld { program: path, why });
        }
        let mut now = self.now();
        now.generation += u64::from(now.tried != identity);
        now.path = path;
        now.tried = identity;
        now.runs = true;
        Ok(version)
    }

    /// Asks codex whether it can read a login in `home` (`codex login status`).
    /// Returns its answer, or why it has no usable answer. codex does not ask
    /// the model's API, so an expired login passes, and it ignores `CODEX_API_KEY`.
    pub async fn login_status(&self, launch: &Launch, home: &Path) -> Result<String, String> {
        let mut env = launch.env.clone();
        env.retain(|(name, _)| name != "CODEX_HOME");
        env.push(("CODEX_HOME".to_owned(), home.display().to_string()));
        let said = run(&self.path(), &["login", "status"], launch, env).await;
        let Said { exit, stderr, .. } =
            said.map_err(|error| format!("codex login status: {}", with_sources(&error)))?;
        let words = stderr::spoken(&stderr::clean_tail(&stderr)).replace('\n', "; ");
        match exit {
            Exit::Code(0) => Ok(words),
            _ => Err(words),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a codex that was run for its words has printed, and how it ended.
struct Said {
    exit: Exit,
    stdout: String,
    stderr: String,
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Open(io::Error),
    #[error(transparent)]
    Guard(SpawnError),
    #[error("took longer than {} s", WORDS_LIMIT.as_secs())]
    TimedOut,
}

async fn report_version(program: &Path, launch: &Launch) -> Result<String, ProgramError> {
    let program = program.to_owned();
    let said = run(&program, &["--version"], launch, launch.env.clone()).await;
    let said = match said {
        Ok(said) => said,
        Err(RunError::Open(source)) => return Err(ProgramError::Start { program, source }),
        Err(RunError::Guard(source)) => return Err(ProgramError::Guard { program, source }),
        Err(RunError::TimedOut) => return Err(ProgramError::TimedOut { program }),
    };
    let Said {
        exit,
        stdout,
        stderr,
    } = said;
    let failed = |how: String| ProgramError::Failed {
        program: program.clone(),
        how,
        stderr: stderr::clean_tail(&stderr),
    };
    match exit {
        Exit::Code(0) => {
            let version = stdout.split_whitespace().last().unwrap_or("unknown");
            Ok(version.to_owned())
        }
        Exit::Code(code) => Err(failed(format!("exit status: {code}"))),
        Exit::Signal(signal) => Err(failed(format!("signal: {signal}"))),
        Exit::NotStarted { message, errno } => Err(ProgramError::NotStarted { message, errno }),
        Exit::GuardLost => Err(ProgramError::GuardLost { program }),
    }
}

/// As a turn would run it: its file may be the agents' to write, and is then
/// not to be run as the worker's user.
async fn run(
    program: &Path,
    args: &[&str],
    launch: &Launch,
    env: Vec<(String, String)>,
) -> Result<Said, RunError> {
    let open = |path: &str| File::open(path).map_err(RunError::Open);
    let (top, nothing) = (open("/")?, open("/dev/null")?);
    let guarded = launch.guards.start(GuardSpec {
        program: program.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env,
        dir: top.as_fd(),
        tag: None,
        user: launch.user.clone(),
        limits: launch.limits,
        files: Vec::new(),
        stdin: open("/dev/null")?.into(),
        // In place of a workspace's lock, and of what is recorded there.
        lock: nothing.as_fd(),
        unkillable: nothing.as_fd(),
        kill_timeout: launch.kill_timeout,
        lock_lost_after: None,
        bell: None,
    });
    let (mut guard, pipes) = guarded.map_err(RunError::Guard)?;
    let said = async {
        let (stdout, stderr) = tokio::join!(some_of(pipes.stdout), some_of(pipes.stderr));
        Said {
            exit: guard.closed().await.exit,
            stdout,
            stderr,
        }
    };
    timeout(WORDS_LIMIT, said)
        .await
        .map_err(|_| RunError::TimedOut)
}

/// Who says more than a version is not listened to.
async fn some_of(pipe: Receiver) -> String {
    let mut bytes = Vec::new();
    // What can't be read is missed in what was read.
    let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
