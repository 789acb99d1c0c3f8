//! Commands, settings, logs, signals, exit codes.

mod cancel;
mod check;
mod dead;
mod exit;
mod home;
mod interrupt;
mod logs;
mod output;
mod pause;
mod print;
mod render;
mod retry;
mod run;
mod schema;
mod serve;
mod show;
mod status;
mod stderr;
mod submit;
mod tail;
mod turn;
mod validate;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use turn_worker::config::{ConfigError, Settings, Warning, settings_help};

/// Runs coding-agent turns from RabbitMQ with the codex CLI, in order per workspace
#[derive(Debug, Parser)]
#[command(name = "turn-worker", version = turn_worker::VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take turns from the queue until SIGTERM (also what happens without a command)
    #[command(after_long_help = serve::HELP)]
    Serve,
    /// Send a turn to the workers and follow it to its end
    #[command(after_long_help = with_statuses(submit::EXAMPLES))]
    Submit(submit::SubmitArgs),
    /// Print a turn from the event log, and follow it to its end
    #[command(after_long_help = with_statuses(tail::EXAMPLES))]
    Tail(tail::TailArgs),
    /// End a turn, waiting or running
    #[command(after_long_help = cancel::EXAMPLES)]
    Cancel(cancel::CancelArgs),
    /// Run one turn here and now, without a broker
    #[command(after_long_help = with_statuses(run::EXAMPLES))]
    Run(run::RunArgs),
    /// Try all that a worker rests on: settings, broker, file system, codex
    #[command(after_long_help = check::EXAMPLES)]
    Check(check::CheckArgs),
    /// Show what the pool is doing: workers, running turns, backlog
    #[command(after_long_help = status::EXAMPLES)]
    Status(status::StatusArgs),
    /// Show one turn: where it waits or runs, or how it ended
    #[command(after_long_help = show::EXAMPLES)]
    Show(show::ShowTurnArgs),
    /// Send a failed turn once more, under a new id
    #[command(after_long_help = retry::EXAMPLES)]
    Retry(retry::RetryArgs),
    /// Start no more turns, in the whole pool or in a workspace
    #[command(after_long_help = pause::PAUSE_EXAMPLES)]
    Pause(pause::PauseArgs),
    /// End a pause
    #[command(after_long_help = pause::RESUME_EXAMPLES)]
    Resume(pause::ResumeArgs),
    /// Say where workspaces live, in a pool without shared storage
    #[command(after_long_help = home::EXAMPLES)]
    Home(home::HomeArgs),
    /// List and show requests that were not accepted
    #[command(after_long_help = dead::EXAMPLES)]
    Dead(dead::DeadArgs),
    /// Say what is wrong with a request, all of it at once
    #[command(after_long_help = validate::EXAMPLES)]
    Validate(validate::ValidateArgs),
    /// Print the contract with producers: JSON Schemas, AsyncAPI
    #[command(after_long_help = schema::EXAMPLES)]
    Schema(schema::SchemaArgs),
    /// The second process of a check
    #[command(name = TRY_LOCK, hide = true)]
    TryLock { path: PathBuf },
}

/// The command that shows whether a lock can be had.
const TRY_LOCK: &str = "__try-lock";

/// Each turn may wait for a disk that hangs, and the runtime needs threads
/// beside those: more than `SLOTS` may be, and made only when needed.
const BLOCKING_THREADS: usize = 4_096;

/// For what still writes in the background when a command is done.
const LAST_WRITES: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  turn-worker check
  turn-worker serve
  turn-worker submit -w acme/website 'Fix the failing test'

`turn-worker help COMMAND` describes one, with examples.";

fn with_statuses(examples: &str) -> String {
    format!("{examples}\n\n{}", exit::HELP)
}

pub(crate) fn main() -> ExitCode {
    let command = Cli::command()
        .long_version(version())
        .after_help(EXAMPLES)
        .after_long_help(format!("{EXAMPLES}\n\n{}", settings_help()));
    let cli = match Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match start(cli.command.unwrap_or(Command::Serve)) {
        Ok(code) => code,
        Err(error) => {
            stderr::notice(&format!("{error:#}"));
            ExitCode::from(if error.is::<ConfigError>() || error.is::<exit::Usage>() {
                exit::USAGE
            } else {
                exit::FAILURE
            })
        }
    }
}

/// With what it was tested with.
fn version() -> &'static str {
    let own = turn_worker::VERSION;
    format!("{own}\n{}", turn_worker::versions::in_words()).leak()
}

fn start(command: Command) -> anyhow::Result<ExitCode> {
    let settings = match &command {
        Command::TryLock { path } => return Ok(check::try_lock(path)),
        Command::Submit(_)
        | Command::Tail(_)
        | Command::Cancel(_)
        | Command::Status(_)
        | Command::Home(_)
        | Command::Dead(_) => Settings::for_producer(),
        Command::Show(_) | Command::Retry(_) | Command::Pause(_) | Command::Resume(_) => {
            Settings::for_operator()
        }
        Command::Validate(args) => {
            let settings = prepared(Settings::for_documents()?, true)?;
            return validate::validate(&settings, args);
        }
        Command::Schema(args) => {
            let settings = prepared(Settings::for_documents()?, true)?;
            return Ok(schema::schema(&settings, args));
        }
        Command::Serve | Command::Run(_) | Command::Check(_) => Settings::from_env(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let done = match command {
        Command::Serve => {
            let settings = prepared(settings?, false)?;
            runtime.block_on(serve::serve(settings))
        }
        Command::Run(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(run::run(settings, args))
        }
        Command::Submit(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(submit::submit(settings, args))
        }
        Command::Tail(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(tail::tail(settings, args))
        }
        Command::Cancel(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(cancel::cancel(settings, args))
        }
        Command::Check(args) => {
            if let Ok((settings, _)) = &settings {
                logs::init(settings, true)?;
            }
            Ok(runtime.block_on(check::check(settings, args)))
        }
        Command::Status(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(status::status(settings, args))
        }
        Command::Show(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(show::show(settings, args))
        }
        Command::Retry(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(retry::retry(settings, args))
        }
        Command::Pause(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(pause::pause(&settings, args))
        }
        Command::Resume(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(pause::resume(&settings, &args))
        }
        Command::Home(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(home::home(settings, args))
        }
        Command::Dead(args) => {
            let settings = prepared(settings?, true)?;
            runtime.block_on(dead::dead(settings, args))
        }
        Command::TryLock { .. } | Command::Validate(_) | Command::Schema(_) => {
            unreachable!("done before there was a runtime")
        }
    };
    // A command that ends does not wait for its tasks.
    runtime.shutdown_timeout(LAST_WRITES);
    done
}

fn prepared(
    (settings, warnings): (Settings, Vec<Warning>),
    quiet: bool,
) -> anyhow::Result<Settings> {
    logs::init(&settings, quiet)?;
    for warning in warnings {
        if quiet {
            stderr::notice(&format!("warning: {warning}"));
        } else {
            tracing::warn!("{warning}");
        }
    }
    Ok(settings)
}
