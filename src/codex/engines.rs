//! The engine that the settings name.

use std::time::Duration;

use super::app_server::{AppServer, AppServerRun, IdleServers, Server};
use super::engine::{Ask, End, Engine, EngineRun, Output, Reported, TurnInput};
use super::exec::{Exec, ExecRun};
use super::process::Codex;
use crate::guard::SpawnError;

#[derive(Debug, Clone)]
pub enum AnyEngine {
    Exec(Exec),
    AppServer(AppServer),
}

#[derive(Debug)]
pub enum AnyRun {
    Exec(Box<ExecRun>),
    AppServer(Box<AppServerRun>),
}

impl AnyEngine {
    pub fn codex(&self) -> &Codex {
        match self {
            Self::Exec(Exec(codex)) | Self::AppServer(AppServer { codex, .. }) => codex,
        }
    }

    /// Has servers wait there between turns, if it is an engine with servers.
    pub fn keep_servers(&mut self, idle: IdleServers) {
        match self {
            Self::Exec(_) => {}
            Self::AppServer(engine) => engine.idle = Some(idle),
        }
    }
}

impl Engine for AnyEngine {
    type Run = AnyRun;

    async fn start(
        &self,
        input: TurnInput<'_>,
        ask: Ask,
        kept: Option<Server>,
    ) -> Result<AnyRun, SpawnError> {
        Ok(match self {
            Self::Exec(engine) => AnyRun::Exec(Box::new(engine.start(input, ask, kept).await?)),
            Self::AppServer(engine) => {
                AnyRun::AppServer(Box::new(engine.start(input, ask, kept).await?))
            }
        })
    }

    fn generation(&self) -> u64 {
        self.codex().program.generation()
    }

    fn codex(&self) -> Option<&Codex> {
        Some(self.codex())
    }

    fn delta_window(&self) -> Option<Duration> {
        match self {
            Self::Exec(engine) => engine.delta_window(),
            Self::AppServer(engine) => engine.delta_window(),
        }
    }

    fn idle(&self) -> Option<&IdleServers> {
        match self {
            Self::Exec(engine) => engine.idle(),
            Self::AppServer(engine) => engine.idle(),
        }
    }
}

impl EngineRun for AnyRun {
    async fn next(&mut self) -> Option<Output> {
        match self {
            Self::Exec(run) => run.next().await,
            Self::AppServer(run) => run.next().await,
        }
    }

    fn reported(&self) -> Option<Reported> {
        match self {
            Self::Exec(run) => run.reported(),
            Self::AppServer(run) => run.reported(),
        }
    }

    async fn interrupt(&mut self) {
        match self {
            Self::Exec(run) => run.interrupt().await,
            Self::AppServer(run) => run.interrupt().await,
        }
    }

    async fn kill(&mut self) {
        match self {
            Self::Exec(run) => run.kill().await,
            Self::AppServer(run) => run.kill().await,
        }
    }

    async fn end(&mut self) -> End {
        match self {
            Self::Exec(run) => run.end().await,
            Self::AppServer(run) => run.end().await,
        }
    }

    fn keep(self) -> Option<Server> {
        match self {
            Self::Exec(run) => run.keep(),
            Self::AppServer(run) => run.keep(),
        }
    }
}
