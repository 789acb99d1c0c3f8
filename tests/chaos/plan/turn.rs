//! One turn of a plan: where it runs, what codex does in it, how it ends.

use serde_json::{Value, json};

use super::fault::HostFault;
use super::{Sabotage, Shape, weighted};

#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub id: String,
    pub workspace: String,
    /// For the stand-in, a step a line.
    script: Vec<String>,
    pub ends: Ends,
    /// How many texts it says when it ends well.
    pub says: usize,
    timeout_s: Option<u32>,
    max_attempts: Option<u32>,
    /// Cancelled when so many more turns have been enqueued.
    pub cancel_after: Option<usize>,
    /// Published once more when so many more turns have been enqueued.
    pub again_after: Option<usize>,
    /// What is published then is another request under the same id.
    pub other_body: bool,
}

/// How an undisturbed turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    Well,
    /// codex says that it failed, or ends without a word.
    Failed(&'static str),
    /// It kills its worker whenever it runs.
    Exhausted,
    TimedOut,
    Invalid,
}

impl Ends {
    /// The code of its error.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::Well => None,
            Self::Failed(code) => Some(code),
            Self::Exhausted => Some("turn.attempts_exhausted"),
            Self::TimedOut => Some("turn.timeout"),
            Self::Invalid => Some("request.invalid"),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Quick,
    Working,
    Long,
    /// Longer than the fault that strikes.
    Lasting {
        seconds: u32,
    },
    Flood,
    Daemon,
    Background,
    Agent,
    ZombieLeader,
    Hung,
    Failing,
    Poison,
    Hanging,
    Invalid,
}

/// Until a host that was cut off for long enough to lose its locks is superseded, and more.
pub const LASTS_LONGER_S: u32 = 75;

/// In hundredths.
const KINDS: [(u32, Kind); 13] = [
    (23, Kind::Quick),
    (28, Kind::Working),
    (5, Kind::Long),
    (9, Kind::Flood),
    (8, Kind::Daemon),
    (7, Kind::Background),
    (8, Kind::Agent),
    (2, Kind::ZombieLeader),
    (1, Kind::Hung),
    (6, Kind::Failing),
    (1, Kind::Poison),
    (1, Kind::Hanging),
    (1, Kind::Invalid),
];

/// What starts the first line of a prompt that must never be run: the turn
/// was accepted with another one.
pub const OTHER_BODY: &str = "other-";

impl Turn {
    pub(super) fn new(shape: &Shape, number: usize, random: &mut fastrand::Rng) -> Self {
        if let Some((fault, seconds)) = shape.host_fault {
            let lasting = match fault {
                // Old reads show where hosts take turns all the time.
                HostFault::None => 0,
                _ => (shape.workspaces / 2).max(1),
            };
            return Self::on_hosts(shape, lasting, seconds, number, random);
        }
        let hot = (shape.workspaces / 8).max(1);
        let workspace = if random.bool() {
            format!("hot-{}", random.usize(0..hot))
        } else {
            let cold = random.usize(0..shape.workspaces.saturating_sub(hot).max(1));
            format!("team-{}/w-{cold:02}", cold % 3)
        };
        let mut turn = Self::plain(format!("t{number:05}"), workspace);
        let kind = match shape.sabotage {
            // Long enough to be cut off.
            Some(Sabotage::Lock) if random.bool() => Kind::Working,
            _ => weighted(random, &KINDS),
        };
        turn.plan(kind, shape, random);
        if random.u32(0..100) < 3 {
            turn.cancel_after = Some(random.usize(0..30));
        }
        if turn.ends != Ends::Invalid && random.u32(0..100) < 10 {
            // Soon, while it waits or runs, and late, when it has ended.
            turn.again_after = Some(random.usize(0..100));
            turn.other_body = random.u32(0..4) == 0;
        }
        turn
    }

    /// So many workspaces have a turn that outlasts the fault, and a next
    /// one in line; in the others short ones change hands all the time.
    fn on_hosts(
        shape: &Shape,
        lasting: usize,
        seconds: u32,
        number: usize,
        random: &mut fastrand::Rng,
    ) -> Self {
        let others = shape.workspaces.saturating_sub(lasting).max(1);
        let (workspace, kind) = match number.checked_div(lasting) {
            None => (format!("w-{}", random.usize(0..others)), Kind::Quick),
            Some(0) => {
                let seconds = seconds + LASTS_LONGER_S;
                (format!("long-{number}"), Kind::Lasting { seconds })
            }
            Some(1) => (format!("long-{}", number % lasting), Kind::Quick),
            Some(_) => {
                let kind = if random.bool() {
                    Kind::Quick
                } else {
                    Kind::Working
                };
                (format!("w-{}", random.usize(0..others)), kind)
            }
        };
        let mut turn = Self::plain(format!("t{number:05}"), workspace);
        turn.plan(kind, shape, random);
        turn
    }

    /// One that holds its slot until the stand-in's file is there.
    pub fn waiting(number: usize, file: &str) -> Self {
        let mut turn = Self::plain(format!("z{number:05}"), format!("slot-{number}"));
        turn.script.push(format!("wait {file}"));
        turn
    }

    /// One without effects that ends well.
    fn plain(id: String, workspace: String) -> Self {
        Self {
            id,
            workspace,
            script: Vec::new(),
            ends: Ends::Well,
            says: 0,
            timeout_s: None,
            max_attempts: None,
            cancel_after: None,
            again_after: None,
            other_body: false,
        }
    }

    fn plan(&mut self, kind: Kind, shape: &Shape, random: &mut fastrand::Rng) {
        match kind {
            Kind::Quick => {
                for _ in 0..random.usize(1..4) {
                    self.step(format!("sleep {}", random.u32(0..30)));
                    self.say();
                }
            }
            Kind::Working => {
                self.step("think about it");
                self.step(format!("run sleep 0.{}", random.u32(1..4)));
                self.say();
                self.step(format!("sleep {}", random.u32(50..500)));
                self.say();
            }
            Kind::Long => {
                let most = if shape.short { 4 } else { 12 };
                for _ in 0..random.usize(2..most) {
                    self.step(format!("sleep {}", random.u32(200..500)));
                    self.say();
                }
            }
            Kind::Lasting { seconds } => {
                for _ in 0..seconds {
                    self.step("sleep 1000");
                    self.say();
                }
            }
            Kind::Flood => {
                let texts = random.usize(50..400);
                self.step(format!("flood {texts}"));
                self.says = texts;
            }
            Kind::Daemon => {
                self.step(format!("daemon daemon-{}", self.id));
                self.step(format!("sleep {}", random.u32(0..100)));
                self.say();
            }
            Kind::Background => {
                self.step("run (sleep 100000 >/dev/null 2>&1 &) ; sleep 0.05");
                self.say();
            }
            // It works on when its turn ends; a deaf one does not heed an interrupt.
            Kind::Agent => {
                self.step(if random.bool() { "agent" } else { "agent deaf" });
                self.say();
            }
            Kind::ZombieLeader => {
                let of = format!("$STAND_IN_DIR/zombie-{}", self.id);
                self.step(format!(
                    "run $STAND_IN_DIR/awkward-process zombie-leader {of} >/dev/null 2>&1 & \
                     until [ -e {of} ]; do sleep 0.01; done"
                ));
                self.say();
            }
            Kind::Hung => {
                self.step("run cat $STAND_IN_DIR/hung/x >/dev/null 2>&1 & sleep 0.1");
                self.say();
            }
            Kind::Failing => {
                self.say();
                let (step, code) = match random.u32(0..3) {
                    0 => ("fail the model is not available", "turn.failed"),
                    1 => ("exit 3", "codex.exited"),
                    _ => ("die", "codex.exited"),
                };
                self.step(step);
                self.ends = Ends::Failed(code);
            }
            Kind::Poison => {
                self.step("kill-worker");
                self.max_attempts = Some(2);
                self.ends = Ends::Exhausted;
            }
            Kind::Hanging => {
                self.step("hang");
                self.timeout_s = Some(1);
                self.ends = Ends::TimedOut;
            }
            Kind::Invalid => self.ends = Ends::Invalid,
        }
    }

    fn step(&mut self, step: impl Into<String>) {
        self.script.push(step.into());
    }

    fn say(&mut self) {
        self.says += 1;
        self.step(format!("say {} of {}", self.says, self.id));
    }

    pub fn request(&self) -> Value {
        let prompt = format!("{}\n{}", self.id, self.script.join("\n"));
        let mut request = json!({
            "turn_id": self.id,
            "workspace": self.workspace,
            "messages": [{"role": "user", "content": prompt}],
        });
        if self.ends == Ends::Invalid {
            request["messages"] = json!([]);
        }
        if let Some(seconds) = self.timeout_s {
            request["timeout_s"] = seconds.into();
        }
        if let Some(attempts) = self.max_attempts {
            request["max_attempts"] = attempts.into();
        }
        request
    }

    /// What is published when it is published again.
    pub fn request_again(&self) -> Value {
        let mut request = self.request();
        if self.other_body {
            let prompt = format!("{OTHER_BODY}{}\nsay nothing", self.id);
            request["messages"][0]["content"] = prompt.into();
        }
        request
    }
}
