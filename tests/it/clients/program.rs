//! One of the programs in one of the languages, called.

use std::path::Path;
use std::process::Command;

use crate::cli::call::{Call, Called};
use crate::support::shared::shared;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/clients");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Python,
    TypeScript,
    Go,
    Java,
}

impl Language {
    /// Those that this machine has what they need for.
    pub fn all_that_run() -> Vec<Self> {
        let missing = Command::new(CLIENTS).arg("missing").output().unwrap();
        let missing = String::from_utf8(missing.stdout).unwrap();
        let lacks = |language: &Self| {
            missing
                .lines()
                .any(|line| line.starts_with(language.name()))
        };
        let mut all = vec![Self::Python, Self::TypeScript, Self::Go, Self::Java];
        all.retain(|language| !lacks(language));
        all
    }

    fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::TypeScript => "typescript",
            Self::Go => "go",
            Self::Java => "java",
        }
    }

    /// Compiles its programs; once in a run. Before a test has connections to the broker: those would not outlive so
    /// long a wait.
    pub fn build(self) {
        shared(&format!("client-{}", self.name()), || {
            let built = Command::new(CLIENTS).args(["build", self.name()]).output();
            let built = built.unwrap_or_else(|error| panic!("{CLIENTS}: {error}"));
            assert!(built.status.success(), "{built:#?}");
        });
    }

    /// Runs the library's own tests.
    pub fn test_library(self) {
        let tested = Command::new(CLIENTS).args(["test", self.name()]).output();
        let tested = tested.unwrap_or_else(|error| panic!("{CLIENTS}: {error}"));
        assert!(tested.status.success(), "{tested:#?}");
    }

    fn call(self, program: &str, arguments: &[&str], url: &str) -> Call {
        let run = [&["run", self.name(), program], arguments].concat();
        // Java reads its arguments by the locale.
        Call::of(CLIENTS, &run)
            .env("AMQP_URL", url)
            .env("LANG", "C.UTF-8")
    }

    /// The program of few lines.
    pub fn enqueue(self, url: &str) -> Call {
        self.call("enqueue", &[], url)
    }

    /// The same, where this certificate is that of an authority.
    pub fn enqueue_trusting(self, certificate: &str, url: &str) -> Call {
        let call = self.enqueue(url);
        match self {
            Self::Python | Self::Go => call.env("SSL_CERT_FILE", certificate),
            Self::TypeScript => call.env("NODE_EXTRA_CA_CERTS", certificate),
            Self::Java => {
                let store = trust_store(certificate);
                let options = format!(
                    "-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword=changeit"
                );
                call.env("JAVA_TOOL_OPTIONS", &options)
            }
        }
    }

    /// What the documents start with.
    pub fn ask(self, url: &str) -> Call {
        self.call("ask", &[], url)
    }

    /// What uses the library as a service does.
    pub fn probe(self, what: &str, url: &str) -> Call {
        self.call("probe", &[what], url)
    }

    /// The chat page, and what uses it as browsers do.
    pub fn chat(self, how: &str, url: &str) -> Call {
        let call = self.call("chat", &[how], url);
        match std::env::var("SCREENSHOT") {
            Ok(file) => call.env("SCREENSHOT", &file),
            Err(_) => call,
        }
    }

    pub fn tail(self, turn_id: &str, url: &str) -> Call {
        self.call("producer", &["--tail", turn_id], url)
    }

    pub fn tail_in(self, turn_id: &str, workspace: &str, url: &str) -> Call {
        self.call("producer", &["--tail", turn_id, workspace], url)
    }

    pub fn producer(self, workspace: &str, prompts: &[&str], url: &str) -> Call {
        let arguments = [&[workspace], prompts].concat();
        self.call("producer", &arguments, url)
    }
}

/// Java reads no PEM.
fn trust_store(certificate: &str) -> String {
    let store = format!("{certificate}.p12");
    if !Path::new(&store).exists() {
        let made = Command::new("keytool")
            .args([
                "-importcert",
                "-noprompt",
                "-alias",
                "ca",
                "-storetype",
                "PKCS12",
            ])
            .args([
                "-storepass",
                "changeit",
                "-file",
                certificate,
                "-keystore",
                &store,
            ])
            .output();
        let made = made.unwrap();
        assert!(made.status.success(), "{made:#?}");
    }
    store
}

/// The id of the first turn that a producer sends, as it says.
pub async fn turn_id(called: &Called) -> String {
    called.said("\n").await;
    let said = called.err_so_far();
    let first = said.lines().next();
    let id = first.and_then(|line| line.strip_prefix("turn "));
    id.unwrap_or_else(|| panic!("no turn id in {said:?}"))
        .to_owned()
}
