//! Conversations that codex refuses to resume, on both engines: the turn says
//! why, asks no model, and a new conversation starts only where that was asked for.

use std::fs;
use std::process::Command;

use super::{Codex, ModelServer, program};
use crate::support::host::Turn;

const ENGINES: [&str; 2] = ["exec", "app-server"];

/// A conversation in workspace `a` with the provider of [`Codex`], and another
/// provider that it has not asked.
struct Lab {
    codex: Codex,
    other: ModelServer,
    thread: String,
}

impl Lab {
    fn new(engine: &str) -> Self {
        let codex = Codex::new().map(|host| host.set("CODEX_ENGINE", engine));
        let first = codex.run("a", "First.");
        first.assert_end_turn();
        let thread = first.thread().to_owned();
        let other = ModelServer::start().unwrap();
        Self {
            codex,
            other,
            thread,
        }
    }

    /// Of the operator: the other provider is the one that is used.
    fn change_provider(&self, keep_the_first: bool) {
        let path = self.codex.path().join("codex-home/config.toml");
        let before = fs::read_to_string(&path).unwrap();
        let first = before.split_once('\n').unwrap().1;
        let other = self.other.codex_config().replace("stand-in", "other");
        let mut after = other.to_owned() + "env_key = \"STAND_IN_KEY\"\n";
        if keep_the_first {
            after += first;
        }
        fs::write(path, after).unwrap();
    }

    fn archive(&self) {
        let mut command = Command::new(program());
        let home = self.codex.path().join("codex-home");
        command
            .args(["archive", &self.thread])
            .env("CODEX_HOME", home);
        assert!(command.output().unwrap().status.success());
    }

    fn run(&self, thread: &str) -> Turn {
        let arguments = ["run", "--json", "-w", "a", "--thread", thread, "-"];
        let command = self.codex.call(&arguments);
        self.codex.start_command(command, "a", "Second.").ended()
    }

    fn judge(&self, engine: &str, words: &str) {
        let asked = self.codex.model.requests().len();
        let refused = self.run("continue");
        let (_, reason, again, message) = refused.error();
        assert_eq!((reason, again), ("thread", false), "{engine}: {message}");
        assert!(message.contains(words), "{engine}: {message}");
        assert!(message.contains("`thread` `new`"), "{engine}: {message}");
        assert_eq!(refused.notices(), [""; 0], "{engine}");
        // Neither the provider that was, nor the one that is.
        assert_eq!(self.codex.model.requests().len(), asked, "{engine}");
        assert_eq!(self.other.requests().len(), 0, "{engine}");

        let anew = self.run("continue_or_new");
        anew.assert_end_turn();
        assert_eq!(anew.notices(), ["codex.thread_lost"], "{engine}");
        assert_ne!(anew.thread(), self.thread, "{engine}");
        // From then on it is the workspace's.
        let on = self.run("continue_or_new");
        on.assert_end_turn();
        assert_eq!(on.thread(), anew.thread(), "{engine}");
    }
}

#[test]
fn a_conversation_stays_with_its_provider_or_ends() {
    for engine in ENGINES {
        let lab = Lab::new(engine);
        lab.change_provider(true);
        lab.judge(engine, "model provider from `stand-in` to `other`");
        assert_eq!(lab.other.requests().len(), 2, "{engine}");
    }
}

#[test]
fn a_conversation_without_its_provider_is_reported() {
    for engine in ENGINES {
        let lab = Lab::new(engine);
        lab.change_provider(false);
        lab.judge(
            engine,
            "uses model provider “stand-in”, which is no longer configured",
        );
    }
}

#[test]
fn an_archived_conversation_is_refused_until_it_is_unarchived() {
    for engine in ENGINES {
        let lab = Lab::new(engine);
        lab.archive();
        lab.judge(engine, "is archived");
    }
}
