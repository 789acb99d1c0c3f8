//! Processes that a turn starts, ends, or is started by.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use turn_worker::guard::proc;

/// The commands that run, by their shells.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A command in a session of its own, as codex runs them, to its end. What it
/// prints is reported as it comes.
pub fn run(command: &str, cwd: Option<&Path>, mut told: impl FnMut(&[u8])) -> (String, i32) {
    let mut shell = Command::new("sh");
    if let Some(cwd) = cwd {
        shell.current_dir(cwd);
    }
    // The thread comes first: the command may leave no room for one.
    let (mut stderr, writer) = std::io::pipe().unwrap();
    let drained = thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    let mut child = in_own_session(shell.args(["-c", command]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(writer)
        .spawn()
        .unwrap();
    // With its copy of the writer.
    drop(shell);
    let pid = Pid::from_child(&child);
    running().push(pid);
    let mut stdout = child.stdout.take().unwrap();
    let mut output = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = stdout.read(&mut chunk).unwrap_or(0);
        if read == 0 {
            break;
        }
        output.extend_from_slice(&chunk[..read]);
        told(&chunk[..read]);
    }
    let _ = drained.join();
    let status = child.wait().unwrap();
    running().retain(|other| *other != pid);
    let text = String::from_utf8_lossy(&output).into_owned();
    (text, status.code().unwrap_or(-1))
}

/// Ends the shells of commands, but not what these have started.
pub fn end_all() {
    for pid in running().drain(..) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn running() -> std::sync::MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forks twice into a session of its own, holds stdout and stderr, and leaves
/// its pid in that file.
pub fn daemon(file: &Path) {
    let script = format!(
        "(nohup setsid sh -c 'trap \"\" TERM INT HUP; echo $$ > {0}.new && mv {0}.new {0}; exec sleep 100000' &)",
        file.display()
    );
    in_own_session(Command::new("sh").args(["-c", &script]))
        .stdin(Stdio::null())
        .status()
        .unwrap();
    while !file.exists() {
        thread::sleep(Duration::from_millis(2));
    }
}

/// Has a script run in the code-mode host, which is started by the first one and
/// ends with this process. The real one is in this process's session, too.
pub fn run_script(script: &str) {
    static HOST: Mutex<Option<Child>> = Mutex::new(None);
    let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let host = host.get_or_insert_with(|| {
        let program = std::env::current_exe().unwrap();
        // Without what this process has open for its turn, as with the real one.
        let without = "for fd in /proc/self/fd/*; do fd=${fd##*/}; ((fd < 3)) || eval \"exec $fd>&-\"; done; \
                       exec \"$0\" --listen grpc+stdio://";
        Command::new("bash")
            .args(["-c", without])
            .arg(program.with_file_name("codex-code-mode-host"))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    writeln!(host.stdin.as_mut().unwrap(), "{script}").unwrap();
    let mut answer = [0; 5];
    host.stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut answer)
        .unwrap();
}

/// An MCP server that has a process of its own do its work, as `npx` does. That one is
/// started as soon as `started` is called.
pub struct McpServer(Child);

impl McpServer {
    pub fn start() -> Self {
        let script = "read go; sleep 100000 & echo ready; wait";
        let server = Command::new("sh")
            .args(["-c", script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(server.unwrap())
    }

    pub fn started(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let mut ready = [0; 6];
        self.0
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
    }
}

/// The login shell that takes a snapshot of the environment, busy with a profile
/// until there is the file `done`. Leaves its pid in the file `snapshot`.
pub fn take_snapshot(dir: &Path) {
    let script = format!(
        "echo $$ > {0}/snapshot; until [ -e {0}/done ]; do sleep 0.01; done; exit 0",
        dir.display()
    );
    let mut shell = in_own_session(Command::new("bash").args(["-c", &script]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    thread::spawn(move || shell.wait());
}

fn in_own_session(command: &mut Command) -> &mut Command {
    #[expect(
        unsafe_code,
        reason = "std has no setsid; one system call, no memory touched"
    )]
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(Into::into))
    }
}

/// Whether the process with the pid in that file lives.
pub fn alive(file: &Path) -> &'static str {
    match fs::read_to_string(file) {
        Err(_) => "none",
        Ok(pid) if pid.trim().parse().is_ok_and(proc::lives) => "alive",
        Ok(_) => "gone",
    }
}

pub fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).unwrap();
}

/// Kills the worker, as a turn does that takes all the memory, and waits for
/// what becomes of that. Looks twice that it is one.
pub fn kill_worker() {
    let me = std::process::id().cast_signed();
    let worker = parent(me, "__guard").and_then(|guard| parent(guard, "serve"));
    if let Some(worker) = worker.and_then(Pid::from_raw) {
        kill(worker);
    }
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// The parent, if its first argument is that.
fn parent(pid: i32, argument: &str) -> Option<i32> {
    let parent = proc::stat(pid)?.parent;
    let command = fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    let first = command.split(|byte| *byte == 0).nth(1)?;
    (first == argument.as_bytes()).then_some(parent)
}

/// `codex login status`, as 0.171.0 answers it: it reads `auth.json`, and
/// the environment's keys don't matter.
pub fn login_status() {
    let home = std::env::var_os("CODEX_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap()).join(".codex"),
        Into::into,
    );
    let error = match fs::read_to_string(home.join("auth.json")) {
        Err(_) => "Not logged in".to_owned(),
        Ok(text) => match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => {
                eprintln!(
                    "API key configured - ***\nAuthentication is checked when you send a request."
                );
                return;
            }
            Err(error) => format!(
                "Error checking login status: failed to deserialize CLI auth from file: {error}"
            ),
        },
    };
    eprintln!("{error}");
    std::process::exit(1);
}

/// `<resource> <number>`: no more of it for this process and what it starts.
pub fn limit(argument: &str) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let (resource, number) = argument.split_once(' ').unwrap();
    let resource = match resource {
        "core" => Resource::Core,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        other => panic!("no resource {other}"),
    };
    let number = number.parse().ok();
    let limit = Rlimit {
        current: number,
        maximum: number,
    };
    setrlimit(resource, limit).unwrap();
}
