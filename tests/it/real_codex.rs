//! The real codex, asking the stand-in for the model, run by the real worker.
//! These tests need no internet.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cuts;
mod engines;
mod failures;
mod hostile;
mod media;
mod pool;
mod prompts;
mod scenarios;
mod threads;
mod turns;

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

use crate::support::host::{Host, until};
use crate::support::model_server::{ModelServer, Request};

/// A host with the real codex, and the model that it asks.
pub struct Codex {
    host: Host,
    model: ModelServer,
}

impl Codex {
    pub fn new() -> Self {
        Self::configured("")
    }

    /// With more lines about the model's provider.
    fn configured(provider: &str) -> Self {
        let host = Host::new();
        let model = ModelServer::start().unwrap();
        let home = host.path().join("codex-home");
        write_home(
            &home,
            &model,
            &format!("env_key = \"STAND_IN_KEY\"\n{provider}"),
        );
        Self {
            host: host
                .set("CODEX_BIN", program())
                .set("CODEX_HOME", home)
                .set("CODEX_ENV", "PATH,HOME,STAND_IN_KEY")
                .env("STAND_IN_KEY", "key-of-the-test"),
            model,
        }
    }

    pub fn map(self, change: impl FnOnce(Host) -> Host) -> Self {
        Self {
            host: change(self.host),
            ..self
        }
    }

    /// Until the model was asked this, so many times; its newest request.
    fn asked(&self, text: &str, times: usize) -> Request {
        until(text, || {
            let requests = self.model.requests();
            let mut asking = requests.iter().filter(|asked| asked.prompt.contains(text));
            asking.nth(times - 1).cloned()
        })
    }

    /// What the model's whole answers to such prompts have cost.
    fn cost(&self, text: &str) -> Option<[u64; 3]> {
        cost(&self.model.requests(), text)
    }

    /// All records of threads.
    fn rollouts(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.host.path().join("codex-home/sessions")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(path),
                }
            }
        }
        files
    }
}

impl Deref for Codex {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

pub fn program() -> PathBuf {
    let named = std::env::var_os("TURN_WORKER_TEST_CODEX");
    let program = PathBuf::from(named.unwrap_or_else(|| {
        panic!("TURN_WORKER_TEST_CODEX does not name the codex binary; ops/setup installs it and ops/test names it")
    }));
    assert!(
        program.is_file(),
        "TURN_WORKER_TEST_CODEX: there is no {program:?}; ops/setup installs it"
    );
    program
}

/// Makes a CODEX_HOME; `provider` are more lines about the model's provider.
fn write_home(home: &PathBuf, model: &ModelServer, provider: &str) {
    fs::create_dir(home).unwrap();
    let config = format!("{}{provider}", model.codex_config());
    fs::write(home.join("config.toml"), config).unwrap();
}

/// Input, cached and output tokens of all whole answers to such prompts.
fn cost(requests: &[Request], text: &str) -> Option<[u64; 3]> {
    let usages = requests
        .iter()
        .filter(|request| request.prompt.contains(text))
        .filter_map(|request| request.usage.as_ref());
    let costs = usages.map(|usage| {
        [
            usage["input_tokens"].as_u64().unwrap(),
            usage["input_tokens_details"]["cached_tokens"]
                .as_u64()
                .unwrap(),
            usage["output_tokens"].as_u64().unwrap(),
        ]
    });
    costs.reduce(|one, other| std::array::from_fn(|at| one[at] + other[at]))
}
