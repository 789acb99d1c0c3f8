//! A hostile workspace and the real codex: all that a folder can say to codex,
//! a server that must get no requests, programs that must not run, and a home
//! that must not change.

mod files;
mod kinds;
mod stranger;
mod traps;
mod users;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::program;
use crate::support::host::{Host, Turn};
use crate::support::model_server::ModelServer;
use crate::support::reachable::reachable;
use stranger::Stranger;
use traps::Traps;

const ENGINES: [&str; 2] = ["app-server", "exec"];
const SANDBOXES: [&str; 3] = ["bypass", "workspace-write", "read-only"];
const KEY: &str = "sk-of-the-operator";

/// A host with the real codex, its model, and a stranger.
struct Lab {
    host: Host,
    model: ModelServer,
    stranger: Stranger,
    /// Out of what a sandbox lets commands write to, unlike the temporary
    /// folder of the tests.
    outside: TempDir,
    config: String,
}

impl Lab {
    fn new(engine: &str, change: impl FnOnce(Host) -> Host) -> Self {
        let model = ModelServer::start().unwrap();
        let host = change(Host::new());
        let home = host.path().join("codex-home");
        fs::create_dir(&home).unwrap();
        let config = format!("{}env_key = \"CODEX_API_KEY\"\n", model.codex_config());
        fs::write(home.join("config.toml"), &config).unwrap();
        let outside = tempfile::tempdir_in("/var/tmp").unwrap();
        users::open_to_all(outside.path());
        Self {
            host: host
                .set("CODEX_BIN", reachable(&program()))
                .set("CODEX_HOME", &home)
                .set("CODEX_ENGINE", engine)
                // The default's, without what the tests' machine may have set.
                .set("CODEX_ENV", "PATH,HOME,CODEX_API_KEY")
                .env("CODEX_API_KEY", KEY),
            model,
            stranger: Stranger::start(),
            outside,
            config,
        }
    }

    fn map(self, change: impl FnOnce(Host) -> Host) -> Self {
        Self {
            host: change(self.host),
            ..self
        }
    }

    fn home(&self) -> PathBuf {
        self.host.path().join("codex-home")
    }

    fn traps(&self) -> Traps<'_> {
        Traps {
            stranger: &self.stranger,
            outside: self.outside.path(),
        }
    }

    /// Adds what an earlier version had codex write: that it trusts these.
    fn trust(&mut self, folders: &[PathBuf]) {
        for folder in folders {
            // A basic string of TOML's is as JSON has it.
            let folder = serde_json::json!(folder);
            self.config += &format!("[projects.{folder}]\ntrust_level = \"trusted\"\n");
        }
        fs::write(self.home().join("config.toml"), &self.config).unwrap();
    }

    fn run(&self, workspace: &str, prompt: &str, new_thread: bool) -> Turn {
        let mut command = self.host.call(&["run", "--json", "-w", workspace]);
        command.args(new_thread.then_some("--new-thread")).arg("-");
        self.host.start_command(command, workspace, prompt).ended()
    }

    /// What a hostile workspace has reached, in words; empty if all is well.
    fn reached(&self) -> Vec<String> {
        let mut reached = self.stranger.heard();
        for entry in fs::read_dir(self.outside.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with("ran-") {
                reached.push(name);
            }
        }
        let config = fs::read_to_string(self.home().join("config.toml")).unwrap();
        if config != self.config {
            reached.push(format!("config.toml is now {config}"));
        }
        for folder in ["rules", "agents"] {
            let entries = fs::read_dir(self.home().join(folder));
            reached.extend(
                entries
                    .into_iter()
                    .flatten()
                    .map(|entry| format!("{folder}: {entry:?}")),
            );
        }
        let strange = |request: &crate::support::model_server::Request| {
            request.model.contains("evil")
                || request.authorization.as_deref() != Some(&format!("Bearer {KEY}"))
        };
        let requests = self.model.requests();
        let strange = requests.iter().filter(|request| strange(request));
        reached.extend(strange.map(|request| format!("asked the model: {request:?}")));
        reached
    }

    #[track_caller]
    fn assert_nothing_reached(&self, what: &str) {
        let reached = self.reached();
        assert!(reached.is_empty(), "{what}: {reached:#?}");
    }
}

fn create(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
