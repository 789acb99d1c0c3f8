//! Commands, settings, logs, signals, exit codes.

mod logs;
mod run;
mod serve;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use turn_worker::config::{Settings, settings_help};

/// Runs coding-agent turns from RabbitMQ with the codex CLI, in order per workspace.
#[derive(Debug, Parser)]
#[command(name = "turn-worker", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take turns from the queue until SIGTERM (also what happens without a command).
    Serve,
    /// Run one turn here and now, without a broker, its events on stdout.
    Run(run::RunArgs),
}

/// What every command that makes a turn takes.
#[derive(Debug, Args)]
struct TurnArgs {
    /// The workspace: a directory under the workspace root, created if missing.
    #[arg(long, short)]
    workspace: String,
    /// The model; codex's own choice without.
    #[arg(long, short)]
    model: Option<String>,
    /// The prompt; `-` reads it from stdin.
    prompt: String,
}

impl TurnArgs {
    /// The request as a producer would send it; a new turn unless `turn_id` names one.
    fn request(&self, turn_id: Option<&str>) -> anyhow::Result<Vec<u8>> {
        let prompt = match self.prompt.as_str() {
            "-" => std::io::read_to_string(std::io::stdin()).context("can't read the prompt")?,
            prompt => prompt.to_owned(),
        };
        let new_id = uuid::Uuid::now_v7().to_string();
        let request = serde_json::json!({
            "turn_id": turn_id.unwrap_or(&new_id),
            "workspace": self.workspace,
            "messages": [{"role": "user", "content": prompt}],
            "model": self.model,
            "enqueued_at": jiff::Timestamp::now().to_string(),
        });
        Ok(serde_json::to_vec(&request)?)
    }
}

pub fn main() -> ExitCode {
    let command = Cli::command().after_long_help(format!(
        "Settings come from the environment:\n\n{}",
        settings_help()
    ));
    let cli = match Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match start(cli.command.unwrap_or(Command::Serve)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("turn-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    let (settings, warnings) = Settings::from_env()?;
    let quiet = !matches!(command, Command::Serve);
    logs::init(&settings, quiet)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Serve => serve::serve(settings).await,
            Command::Run(args) => run::run(settings, args).await,
        }
    })
}
