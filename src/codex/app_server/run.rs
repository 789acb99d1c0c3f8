//! The engine `codex app-server`: a conversation over its stdin and stdout.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::time::{Instant, sleep_until};

use super::{Conversation, Heard, Load};
use crate::codex::engine::{End, Engine, EngineRun, Output, TurnInput};
use crate::codex::lines::Line;
use crate::codex::process::{Codex, Process};
use crate::codex::protocol::CliEvent;
use crate::event::Usage;
use crate::guard::SpawnError;

/// From the server's start until its thread is loaded. It takes half a second;
/// the rest is for a busy machine and for slow MCP servers.
const STARTUP_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct AppServer {
    pub codex: Codex,
    /// How long a piece of text may wait for more.
    pub delta_window: Duration,
}

impl AppServer {
    fn args(&self) -> Vec<String> {
        let mut args = vec!["app-server".to_owned(), "--stdio".to_owned()];
        args.extend(self.codex.extra_args.iter().cloned());
        args
    }
}

impl Engine for AppServer {
    type Run = AppServerRun;

    fn start(&self, input: TurnInput<'_>) -> Result<AppServerRun, SpawnError> {
        let (theirs, ours) = stdin().map_err(SpawnError::Pipes)?;
        let mut conversation = Conversation::new();
        conversation.load(Load {
            cwd: input.dir_path.to_string_lossy().into_owned(),
            sandbox: self.codex.sandbox,
            model: input.model.map(str::to_owned),
            resume: input.resume.map(str::to_owned),
        });
        Ok(AppServerRun {
            process: self.codex.start(self.args(), input, theirs)?,
            conversation,
            stdin: Some(ours),
            unsent: Vec::new(),
            prompt: input.prompt.to_owned(),
            step: Step::Loading {
                until: Instant::now() + STARTUP_LIMIT,
            },
            base: None,
            told: VecDeque::new(),
        })
    }

    fn generation(&self) -> u64 {
        self.codex.program.generation()
    }

    fn delta_window(&self) -> Option<Duration> {
        Some(self.delta_window)
    }
}

#[derive(Debug)]
pub struct AppServerRun {
    process: Process,
    conversation: Conversation,
    /// Nothing once the server is to end.
    stdin: Option<Sender>,
    /// What the server has not taken yet.
    unsent: Vec<u8>,
    prompt: String,
    step: Step,
    /// The thread's tokens before the turn.
    base: Option<Usage>,
    /// What was heard and not yet told.
    told: VecDeque<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Loading {
        until: Instant,
    },
    /// The turn starts only when whoever listens has kept the thread.
    Loaded,
    Turn,
    Over,
}

impl AppServerRun {
    /// Until the server has said something. Cancel-safe.
    async fn listen(&mut self) -> Option<()> {
        let startup = match self.step {
            Step::Loading { until } => Some(until),
            _ => None,
        };
        tokio::select! {
            biased;
            line = self.process.next_line() => self.hear(line?),
            written = write(&mut self.stdin, &self.unsent) => match written {
                Ok(written) => drop(self.unsent.drain(..written)),
                // It has closed its end; what it still says is worth hearing.
                Err(_) => self.hang_up(),
            },
            () = sleep_until(startup.unwrap_or_else(Instant::now)), if startup.is_some() => {
                self.process.note(&format!(
                    "codex app-server has not loaded a thread within {} s",
                    STARTUP_LIMIT.as_secs()
                ));
                self.over();
                self.process.guard.kill().await;
            }
        }
        Some(())
    }

    fn hear(&mut self, line: Line) {
        let line = match line {
            Line::Whole(line) => line,
            Line::TooLong { bytes } => return self.tell(Output::LineTooLong { bytes }),
        };
        let heard = self.conversation.hear(&line);
        self.base = self.conversation.total_before().or(self.base);
        for heard in heard {
            let output = match heard {
                Heard::Loaded { thread_id } => {
                    self.step = Step::Loaded;
                    Output::Event(CliEvent::ThreadStarted { thread_id })
                }
                Heard::Event(event) => Output::Event(event),
                Heard::Lost { message } => Output::ThreadLost { message },
                Heard::Refused { message } => {
                    let cause = None;
                    Output::Event(CliEvent::TurnFailed { message, cause })
                }
                Heard::Garbage { bytes } => Output::Garbage { bytes },
            };
            let is_last = is_last(&output);
            self.tell(output);
            if is_last {
                self.over();
            }
        }
    }

    fn tell(&mut self, output: Output) {
        // What comes after the turn is nobody's.
        if self.step != Step::Over {
            self.told.push_back(output);
        }
    }

    /// The server, too, ends now: by itself, on its closed stdin.
    fn over(&mut self) {
        self.step = Step::Over;
        self.hang_up();
    }

    fn hang_up(&mut self) {
        self.stdin = None;
        self.unsent.clear();
    }
}

impl EngineRun for AppServerRun {
    async fn next(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.told.pop_front() {
                return Some(output);
            }
            match self.step {
                Step::Loaded => {
                    self.step = Step::Turn;
                    self.conversation.go(&self.prompt);
                }
                Step::Loading { .. } | Step::Turn | Step::Over => {}
            }
            if self.stdin.is_some() {
                self.unsent.extend(self.conversation.take_outgoing());
            }
            self.listen().await?;
        }
    }

    fn total_before(&self) -> Option<Usage> {
        self.base
    }

    async fn interrupt(&mut self) {
        if self.step == Step::Turn {
            self.conversation.interrupt();
        } else {
            self.over();
        }
    }

    async fn kill(&mut self) {
        self.process.guard.kill().await;
    }

    async fn end(&mut self) -> End {
        self.over();
        // Read on, or a full pipe would keep it from ending.
        while self.process.next_line().await.is_some() {}
        self.process.end().await
    }
}

/// Nothing of the turn comes after it.
fn is_last(output: &Output) -> bool {
    match output {
        Output::Event(event) => matches!(
            event,
            CliEvent::TurnCompleted { .. }
                | CliEvent::TurnFailed { .. }
                | CliEvent::TurnInterrupted
        ),
        Output::ThreadLost { .. } => true,
        Output::LineTooLong { .. } | Output::Garbage { .. } => false,
    }
}

fn stdin() -> io::Result<(OwnedFd, Sender)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((theirs, Sender::from_owned_fd(ours)?))
}

/// Completes only when something was written, or can't be.
async fn write(stdin: &mut Option<Sender>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) if !bytes.is_empty() => stdin.write(bytes).await,
        _ => pending().await,
    }
}
