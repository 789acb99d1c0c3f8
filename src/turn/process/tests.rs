//! On a clock that goes ahead by itself when all tasks wait.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::codex::home::Home;
use crate::codex::protocol;
use crate::config::EventSet;
use crate::event::{SealedEvent, Sealer, Tokens, TurnError};
use crate::guard::{Exit, Tag};
use crate::turn::StopHandle;
use crate::turn::stop::Limits;

/// A codex that prints its lines and then hangs.
#[derive(Debug, Clone, Default)]
struct Scripted {
    lines: VecDeque<&'static str>,
    /// Before each line.
    pause: Duration,
    /// Whether an interrupt ends it.
    obeys: bool,
    over: bool,
    /// What the turn has spent when so many lines are left.
    spent: Option<fn(usize) -> u64>,
    orders: Arc<Mutex<Vec<&'static str>>>,
}

impl Engine for Scripted {
    type Run = Self;

    async fn start(&self, _: TurnInput<'_>, _: Ask, _: Option<Server>) -> Result<Self, SpawnError> {
        Ok(self.clone())
    }

    fn generation(&self) -> u64 {
        0
    }
}

impl EngineRun for Scripted {
    async fn next(&mut self) -> Option<Output> {
        tokio::time::sleep(self.pause).await;
        match self.lines.pop_front() {
            Some(line) => Some(Output::Event(
                protocol::parse_line(line.as_bytes()).unwrap(),
            )),
            None if self.over => None,
            None => std::future::pending().await,
        }
    }

    fn reported(&self) -> Option<Reported> {
        let own = Tokens {
            input_tokens: self.spent?(self.lines.len()),
            ..Tokens::default()
        };
        Some(Reported {
            own: Some(own),
            ..Reported::default()
        })
    }

    async fn interrupt(&mut self) {
        self.orders.lock().unwrap().push("interrupt");
        self.over |= self.obeys;
    }

    async fn kill(&mut self) {
        self.orders.lock().unwrap().push("kill");
        self.over = true;
    }

    async fn end(&mut self) -> End {
        if !self.over {
            std::future::pending::<()>().await;
        }
        End {
            exit: Exit::Signal(9),
            leftovers: 0,
            unkillable: None,
            lock_lost: None,
            stderr_tail: String::new(),
        }
    }
}

/// Takes events one by one, or, when `full`, only the last ones.
#[derive(Default)]
struct Sink {
    full: bool,
    taken: Mutex<Vec<String>>,
}

impl EventSink for Sink {
    async fn push(&self, event: &SealedEvent) {
        if self.full {
            std::future::pending::<()>().await;
        }
        self.push_final(std::slice::from_ref(event));
    }

    fn push_final(&self, events: &[SealedEvent]) {
        let kinds = events.iter().map(|event| event.kind.clone());
        self.taken.lock().unwrap().extend(kinds);
    }

    fn unconfirmed(&self) -> Vec<SealedEvent> {
        Vec::new()
    }

    async fn refuse(&self, _error: &TurnError) -> bool {
        unreachable!("codex is running")
    }
}

const BEGIN: &str = r#"{"type":"turn.started"}"#;
const SAY: &str =
    r#"{"type":"item.completed","item":{"id":"item_0","type":"agent_message","text":"hi"}}"#;
const COMMAND: &str = r#"{"type":"item.completed","item":{"id":"item_1","type":"command_execution","command":"ls","aggregated_output":"","exit_code":0,"status":"completed"}}"#;
const COMPLETED: &str = r#"{"type":"turn.completed","usage":{"input_tokens":1,"cached_input_tokens":0,"output_tokens":1}}"#;

async fn ran(codex: &Scripted, sink: &Sink, stop: &StopHandle) -> Ran {
    let null = File::open("/dev/null").unwrap();
    let home = Home::default();
    let tag = Tag {
        root: uuid::Uuid::nil(),
        workspace: "a".to_owned(),
        path: "/".to_owned(),
        directory: None,
    };
    let input = TurnInput {
        model: None,
        effort: None,
        models: None,
        resume: None,
        tag: &tag,
        dir: null.as_fd(),
        dir_path: Path::new("/"),
        home: &home,
        lock: null.as_fd(),
        unkillable: null.as_fd(),
        lock_lost_after: None,
        bell: None,
    };
    let mut out = Emitter::new(Sealer::new("t", "a", 1), EventSet::Full, sink);
    let limits = Limits {
        wall: Duration::from_secs(3600),
        idle: Duration::from_secs(600),
    };
    let mut clocks = Clocks::start(stop.clone(), limits);
    run(codex, input, "".into(), None, &mut out, &mut clocks, |_| {})
        .await
        .unwrap()
}

fn orders(codex: &Scripted) -> Vec<&'static str> {
    codex.orders.lock().unwrap().clone()
}

/// Guards that any line of codex resets the idle timeout.
#[tokio::test(start_paused = true)]
async fn codex_that_goes_on_saying_something_is_not_idle() {
    let codex = Scripted {
        lines: [BEGIN, SAY, COMMAND, COMPLETED].into(),
        pause: Duration::from_secs(400),
        obeys: true,
        ..Scripted::default()
    };
    let ran = ran(&codex, &Sink::default(), &StopHandle::new()).await;
    assert_eq!(ran.stop, None);
    assert!(ran.translator.is_over());
}

/// Of lines that come two seconds apart.
#[tokio::test(start_paused = true)]
async fn g7_what_a_turn_has_spent_is_published_at_intervals() {
    let codex = Scripted {
        lines: [
            BEGIN, SAY, SAY, SAY, SAY, SAY, SAY, SAY, SAY, SAY, COMPLETED,
        ]
        .into(),
        pause: Duration::from_secs(2),
        obeys: true,
        spent: Some(|left| if left > 4 { 10 } else { 20 }),
        ..Scripted::default()
    };
    let sink = Sink::default();
    ran(&codex, &sink, &StopHandle::new()).await;
    let taken = sink.taken.lock().unwrap();
    let usage: Vec<usize> = (0..taken.len())
        .filter(|at| taken[*at] == "usage")
        .collect();
    // After 6 s and after 18 s; after 12 s it has not grown.
    assert_eq!(usage.len(), 2, "{taken:?}");
    assert_ne!(taken.last().unwrap(), "usage");
}

#[tokio::test(start_paused = true)]
async fn codex_that_hangs_after_the_turns_end_is_killed_and_the_end_counts() {
    let codex = Scripted {
        lines: [BEGIN, SAY, COMPLETED].into(),
        ..Scripted::default()
    };
    let ran = ran(&codex, &Sink::default(), &StopHandle::new()).await;
    assert_eq!(ran.stop, None);
    assert!(ran.translator.is_over());
    assert_eq!(orders(&codex), ["interrupt", "kill"]);
}

#[tokio::test(start_paused = true)]
async fn codex_that_is_silent_is_interrupted_and_then_killed() {
    for obeys in [true, false] {
        let codex = Scripted {
            lines: [BEGIN, SAY].into(),
            obeys,
            ..Scripted::default()
        };
        let ran = ran(&codex, &Sink::default(), &StopHandle::new()).await;
        assert_eq!(ran.stop, Some(Stop::Idle));
        assert_eq!(orders(&codex), ["interrupt", "kill"]);
    }
}

/// G10: while the way out is full, codex is not listened to and its silence
/// does not count, but the turn's time runs on.
#[tokio::test(start_paused = true)]
async fn g10_a_slow_reader_is_no_silence_of_codexs() {
    let codex = Scripted {
        lines: [BEGIN, SAY, SAY].into(),
        ..Scripted::default()
    };
    let sink = Sink {
        full: true,
        ..Sink::default()
    };
    let ran = ran(&codex, &sink, &StopHandle::new()).await;
    assert_eq!(ran.stop, Some(Stop::Timeout));
}

/// One line can yield two events; the second is not lost when the turn has to
/// stop at the first, or its reader would wait for the tool's result for ever.
#[tokio::test(start_paused = true)]
async fn g6_all_events_of_a_line_go_out_though_the_turn_stops() {
    let codex = Scripted {
        lines: [BEGIN, COMMAND].into(),
        ..Scripted::default()
    };
    let sink = Sink {
        full: true,
        ..Sink::default()
    };
    let stop = StopHandle::new();
    let cancel = async {
        // By then it is stuck with the line that it has read.
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.stop(Stop::Cancel);
    };
    let (ran, ()) = tokio::join!(ran(&codex, &sink, &stop), cancel);
    assert_eq!(ran.stop, Some(Stop::Cancel));
    assert_eq!(*sink.taken.lock().unwrap(), ["tool_use", "tool_result"]);
    let finished = ran.translator.finish(&ran.end.exit, "");
    assert_eq!(finished.events, []);
}
