//! The engine `codex exec`: one process a turn, the prompt on its stdin.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};

use super::app_server::{self, Server};
use super::default_model::{DefaultModel, unlisted};
use super::engine::{Ask, End, Engine, EngineRun, Output, TurnInput};
use super::failure::Cause;
use super::lines::Line;
use super::process::{Codex, EFFORT, Process, WITHOUT_GOALS};
use super::protocol::{self, CliEvent};
use crate::config::Sandbox;
use crate::guard::Exit;
use crate::guard::{FileArg, SpawnError};
use crate::request::Effort;

const fn sandbox_args(sandbox: Sandbox) -> &'static [&'static str] {
    match sandbox {
        Sandbox::Bypass => &["--dangerously-bypass-approvals-and-sandbox"],
        Sandbox::WorkspaceWrite => &["--sandbox", "workspace-write"],
        Sandbox::ReadOnly => &["--sandbox", "read-only"],
    }
}

#[derive(Debug, Clone)]
pub struct Exec(pub Codex);

impl Exec {
    fn args(
        &self,
        common: &[String],
        model: Option<&str>,
        effort: Option<Effort>,
        resume: Option<&str>,
    ) -> Vec<String> {
        let mut args = vec!["exec", "--json", "--skip-git-repo-check"];
        args.extend(sandbox_args(self.0.sandbox));
        args.extend(WITHOUT_GOALS);
        args.extend(common.iter().map(String::as_str));
        // One word, so that no value can be taken for a flag.
        let model = model.map(|model| format!("--model={model}"));
        args.extend(model.as_deref());
        let effort = effort.map(|effort| format!("--config={EFFORT}=\"{effort}\""));
        args.extend(effort.as_deref());
        if let Some(thread) = resume {
            args.extend(["resume", thread]);
        }
        // On stdin a prompt has no length limit of the system's and is never an argument.
        args.push("-");
        args.into_iter().map(str::to_owned).collect()
    }

    /// The default model where only some models may be asked: `codex exec` does
    /// not report it before it has asked it. The error says why the turn is not
    /// run.
    async fn listed_default(
        &self,
        input: TurnInput<'_>,
        models: &BTreeSet<String>,
    ) -> Result<Result<String, String>, SpawnError> {
        let default = DefaultModel::of(&self.0, input.home);
        let model = match default.known() {
            Some(model) => model.to_owned(),
            None => match app_server::default_model(&self.0, input).await? {
                Some(model) => {
                    default.learn(&model);
                    model
                }
                None => return Ok(Err(NO_DEFAULT.to_owned())),
            },
        };
        Ok(match unlisted(&model, models) {
            Some(why) => Err(why),
            None => Ok(model),
        })
    }
}

/// Seen with 0.171.0; so what one turn asked for would hold for all that follow.
const ONE_TIER: &str =
    "`codex exec` goes on with the tier of a conversation's first turn and ignores a later one";

/// Where codex does not answer, as with arguments that only `codex exec` takes.
const NO_DEFAULT: &str = "only some models may be asked (CODEX_MODELS), and codex has not reported which one a turn \
     without one gets; the operator can set CODEX_MODEL";

impl Engine for Exec {
    type Run = ExecRun;

    fn generation(&self) -> u64 {
        self.0.program.generation()
    }

    fn codex(&self) -> Option<&Codex> {
        Some(&self.0)
    }

    async fn start(
        &self,
        input: TurnInput<'_>,
        ask: Ask,
        _: Option<Server>,
    ) -> Result<ExecRun, SpawnError> {
        if let Some(tier) = ask.tier {
            return Ok(ExecRun(Started::Refused(Some(format!(
                "found service_tier \"{tier}\" with CODEX_ENGINE=exec, expected none: {ONE_TIER}"
            )))));
        }
        let mut model = input.model.map(str::to_owned);
        if let (None, Some(models)) = (&model, input.models) {
            match self.listed_default(input, models).await? {
                Ok(default) => model = Some(default),
                Err(why) => return Ok(ExecRun(Started::Refused(Some(why)))),
            }
        }
        let stdin = in_memory("prompt", ask.prompt.as_bytes())?;
        let mut setup = self.0.setup(&input);
        setup.args = self.args(&setup.args, model.as_deref(), input.effort, input.resume);
        let process = self.0.start(setup, input, stdin, files(&ask)?)?;
        Ok(ExecRun(Started::Process(Box::new(process))))
    }
}

#[derive(Debug)]
pub struct ExecRun(Started);

#[derive(Debug)]
enum Started {
    Process(Box<Process>),
    /// Why codex was not started, until that is reported.
    Refused(Option<String>),
}

impl EngineRun for ExecRun {
    async fn next(&mut self) -> Option<Output> {
        let process = match &mut self.0 {
            Started::Process(process) => process,
            Started::Refused(why) => {
                return Some(Output::Event(CliEvent::TurnFailed {
                    message: why.take()?,
                    cause: Some(Cause::CONFIG),
                }));
            }
        };
        Some(match process.next_line().await? {
            Line::Whole(line) => match protocol::parse_line(&line) {
                Ok(event) => Output::Event(event),
                Err(_) => match protocol::parse_rest(&line) {
                    Some(event) => Output::Event(event),
                    None => Output::Garbage { bytes: line.len() },
                },
            },
            Line::TooLong { bytes, .. } => Output::LineTooLong { bytes },
        })
    }

    async fn interrupt(&mut self) {
        if let Started::Process(process) = &mut self.0 {
            process.guard.interrupt().await;
        }
    }

    async fn kill(&mut self) {
        if let Started::Process(process) = &mut self.0 {
            process.guard.kill().await;
        }
    }

    async fn end(&mut self) -> End {
        match &mut self.0 {
            Started::Process(process) => process.end().await,
            Started::Refused(_) => End {
                exit: Exit::Code(0),
                leftovers: 0,
                unkillable: None,
                lock_lost: None,
                stderr_tail: String::new(),
            },
        }
    }
}

/// What codex reads from files, it reads from files in memory: no other process has
/// them, and they vanish when both processes are gone, killed or not.
fn files(ask: &Ask) -> Result<Vec<FileArg>, SpawnError> {
    let mut files = Vec::new();
    for image in &ask.images {
        files.push(FileArg {
            flag: "--image=",
            file: in_memory("image", &image.bytes)?,
        });
    }
    if let Some(schema) = &ask.output_schema {
        files.push(FileArg {
            flag: "--output-schema=",
            file: in_memory("output-schema", schema.text().as_bytes())?,
        });
    }
    Ok(files)
}

/// A file in memory. Of the prompt, through a pipe codex would take the part
/// that a worker had handed over before it died for the whole prompt, and
/// start to carry it out.
fn in_memory(name: &str, content: &[u8]) -> Result<OwnedFd, SpawnError> {
    let write = || -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        file.write_all(content)?;
        file.rewind()?;
        Ok(file.into())
    };
    write().map_err(SpawnError::Prompt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codex::program::{Launch, Program};
    use crate::codex::workspace_config::WorkspaceConfig;

    fn exec() -> Exec {
        Exec(Codex {
            program: Program::find("/bin/sh", "".into()).unwrap(),
            launch: Launch {
                guards: crate::guard::Guards::new("/proc/self/exe".into()),
                engine: crate::config::EngineKind::Exec,
                env: Vec::new(),
                user: None,
                limits: Default::default(),
                kill_timeout: std::time::Duration::from_secs(30),
            },
            sandbox: Sandbox::Bypass,
            extra_args: Vec::new(),
            workspace_config: WorkspaceConfig::Ignored,
            hidden_env: Vec::new(),
            max_line_bytes: 1024,
            default_models: Default::default(),
        })
    }

    #[test]
    fn argv_is_the_one_that_the_cli_takes() {
        let thread = "01a201f5-61c9-7403-9850-cc317d92e3b1";
        let common = ["--disable".to_owned(), "plugins".to_owned()];
        assert_eq!(
            exec()
                .args(&common, Some("gpt-5.5"), Some(Effort::High), Some(thread))
                .join(" "),
            format!(
                "exec --json --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
                 -c features.goals=false --disable plugins --model=gpt-5.5 --config=model_reasoning_effort=\"high\" resume {thread} -"
            )
        );
        let mut fresh = exec();
        fresh.0.sandbox = Sandbox::ReadOnly;
        assert_eq!(
            fresh.args(&[], None, None, None).join(" "),
            "exec --json --skip-git-repo-check --sandbox read-only -c features.goals=false -"
        );
    }

    #[test]
    fn g8_no_model_name_is_taken_for_a_flag() {
        let args = exec().args(&[], Some("--config=x"), None, None);
        assert!(args.contains(&"--model=--config=x".to_owned()));
    }
}
