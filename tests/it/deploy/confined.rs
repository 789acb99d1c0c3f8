//! A worker that is confined as compose and systemd confine it, as far as that takes no engine: privileges, a system
//! that is only for reading, and no way to gain more; in a container it is the first process. It drains, and its agents
//! are another user.

use std::fs;
use std::os::unix::fs::chown;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{compose, systemd};
use crate::cli::call::Call;
use crate::support::broker::Broker;
use crate::support::host::{Host, is_root, until};

const AGENT: u32 = 61_020;
const WORKER: u32 = 61_021;

/// Makes everything read-only but $1 and a new /tmp, and becomes what follows.
const ENTER: &str = r#"set -e
dir=$1; shift
mount --bind "$dir" /mnt
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p "$dir"
mount --bind /mnt "$dir"
mount -o remount,bind,ro /
exec "$@""#;

struct Confined {
    host: Host,
    /// Of the worker; root without.
    user: Option<u32>,
    privileges: Vec<String>,
}

impl Confined {
    fn new(user: Option<u32>, privileges: Vec<String>) -> Self {
        let host = Host::new().run_as(AGENT).set("REQUIRE_ISOLATION", "true");
        let host = host
            .set("HTTP_ADDR", "127.0.0.1:0")
            .set("LOG_FORMAT", "json");
        let program = env!("CARGO_BIN_EXE_turn-worker");
        let copied = Command::new("cp")
            .arg(program)
            .arg(host.path().join("turn-worker"))
            .status();
        assert!(copied.unwrap().success());
        chown(host.path().join("workspaces"), user, user).unwrap();
        Self {
            host,
            user,
            privileges,
        }
    }

    /// Any call of `turn-worker`; in a container it is the first process.
    fn call(&self, arguments: &[&str]) -> Command {
        let dir = self.host.path();
        let (mut privileges, mut bounds) = (String::from("-all"), String::from("-all"));
        for name in &self.privileges {
            let name = name.to_lowercase();
            bounds.push_str(&format!(",+{name}"));
            if self.user.is_some() {
                privileges.push_str(&format!(",+{name}"));
            }
        }
        let inner = self.host.call(arguments);
        let mut outer = Command::new("setpriv");
        outer
            .args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .args(self.container().iter().copied().flatten())
            .args(["sh", "-c", ENTER, "enter"])
            .arg(dir)
            .args(["setpriv", "--no-new-privs"])
            .args([
                "--inh-caps",
                &privileges,
                "--ambient-caps",
                &privileges,
                "--bounding-set",
                &bounds,
            ]);
        if let Some(user) = self.user {
            let id = user.to_string();
            outer.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        outer
            .arg(dir.join("turn-worker"))
            .args(arguments)
            .env_clear()
            .envs(
                inner
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        outer
    }

    /// Processes of its own, where it is root.
    fn container(&self) -> Option<&'static [&'static str]> {
        let own = &["--pid", "--fork", "--kill-child", "--mount-proc"][..];
        self.user.is_none().then_some(own)
    }

    /// `turn-worker check` passes, with the listed warnings.
    fn check(&self, warned: &[&str]) {
        let done = self.call(&["check", "--json"]).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(done.status.success(), "{lines:#?}");
        let doubts = lines
            .iter()
            .filter(|line| line["status"] == "warn" && line["check"] == "isolation");
        let doubts: Vec<&str> = doubts
            .map(|line| line["detail"].as_str().unwrap())
            .collect();
        assert_eq!(doubts.len(), warned.len(), "{doubts:?}");
        for (doubt, part) in doubts.iter().zip(warned) {
            assert!(doubt.contains(part), "{doubt}");
        }
    }
}

/// What an agent is and can do in there.
const PROMPT: &str = "t\n\
    run id -u; grep -E '^(CapPrm|CapBnd|NoNewPrivs)' /proc/self/status | tr '\\t' ' '\n\
    run touch made /tmp/made && echo both\n\
    run touch /usr/made\n\
    run cat /proc/1/environ\n\
    run ls ../.turn-worker\n\
    run kill -0 1";

async fn serves_and_drains(confined: &Confined, url: &str) {
    let log = confined.host.path().join("log");
    let mut call = confined.call(&["serve"]);
    call.stderr(fs::File::create(&log).unwrap());
    let mut serve = Serving(call.spawn().unwrap());
    let submit = Call::new(&["submit", "--json", "-w", "a", PROMPT]).set("AMQP_URL", url);
    let done = submit.run().await;
    let told = fs::read_to_string(&log).unwrap();
    assert_eq!(done.code, Some(0), "{done:#?}\n{told}");
    let results: Vec<Value> = done
        .events()
        .into_iter()
        .filter(|event| event["type"] == "tool_result")
        .collect();
    let printed = |number: usize| {
        results[number]["content"]["aggregated_output"]
            .as_str()
            .unwrap()
    };
    let (nothing, bounds) = ("0".repeat(16), bounds(confined));
    let who = format!("{AGENT}\nCapPrm: {nothing}\nCapBnd: {bounds}\nNoNewPrivs: 1\n");
    assert_eq!(printed(0), who);
    assert_eq!(printed(1), "both\n");
    let failed: Vec<bool> = results
        .iter()
        .map(|result| result["is_error"] == true)
        .collect();
    assert_eq!(
        failed,
        [false, false, true, true, true, true],
        "{results:#?}"
    );

    kill_process(serve.worker(confined), Signal::TERM).unwrap();
    let status = until("the worker drains", || serve.0.try_wait().unwrap());
    assert!(
        status.success(),
        "{status}: {}",
        fs::read_to_string(&log).unwrap()
    );
}

/// Ends with the test.
struct Serving(Child);

impl Serving {
    /// What `setpriv`, `unshare` and `sh` have become, or its child.
    fn worker(&self, confined: &Confined) -> Pid {
        let outer = self.0.id();
        let pid = match confined.container() {
            None => outer.to_string(),
            Some(_) => fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap(),
        };
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The privileges' bits, by <linux/capability.h>.
fn bounds(confined: &Confined) -> String {
    let bit = |name: &String| match name.as_str() {
        "CHOWN" => 0,
        "DAC_OVERRIDE" => 1,
        "KILL" => 5,
        "SETGID" => 6,
        "SETUID" => 7,
        "SYS_PTRACE" => 19,
        other => panic!("{other}"),
    };
    let sum: u64 = confined.privileges.iter().map(|name| 1 << bit(name)).sum();
    format!("{sum:016x}")
}

#[tokio::test]
async fn g8_g9_a_worker_that_is_confined_as_in_compose_serves_and_drains() {
    if !is_root("a worker that is confined as in docker-compose.yml") {
        return;
    }
    let url = Broker::vhost();
    let mut confined = Confined::new(None, compose::privileges());
    confined.host = confined.host.set("AMQP_URL", &url);
    // With a container all its processes end.
    confined.check(&["without CAP_SYS_PTRACE"]);
    serves_and_drains(&confined, &url).await;
}

#[tokio::test]
async fn g8_g9_a_worker_that_is_confined_as_by_systemd_serves_and_drains() {
    if !is_root("a worker that is confined as by ops/deploy/systemd") {
        return;
    }
    let url = Broker::vhost();
    let mut confined = Confined::new(Some(WORKER), systemd::privileges());
    confined.host = confined.host.set("AMQP_URL", &url);
    confined.check(&[]);
    serves_and_drains(&confined, &url).await;
}
