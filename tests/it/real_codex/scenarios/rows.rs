//! What is played: one conversation a row.

/// A conversation in a workspace of its own. What is expected is expected of
/// its last turn, and of both engines.
pub struct Row {
    pub name: &'static str,
    /// Scripts for the stand-in model, one a turn.
    pub turns: &'static [&'static str],
    pub with: With,
    pub ends: Ends,
    /// The last turn's messages.
    pub said: &'static [&'static str],
    /// Some of its calls run at the same time.
    pub in_any_order: bool,
    /// Its sub-agents still work when it ends.
    pub leaves_agents: bool,
    /// The last turn starts with a summary of the conversation.
    pub is_compacted: bool,
}

/// What happens to the last turn, or comes along with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum With {
    Nothing,
    /// It is cancelled as soon as the workspace has a file `begun`.
    Cancel,
    /// It has six seconds, enough for its command to start.
    Timeout,
    /// codex's record of the conversation is gone by then.
    LostThread,
    Schema,
    Image,
    /// Its first turn names a model, and the last one does not.
    ModelBefore,
    /// It names a model, and the one before does not.
    Model,
    /// It asks for a reasoning effort, and the one before does not.
    Effort,
    /// Its first turn asks for a reasoning effort, and the last one does not.
    EffortBefore,
}

/// What codex takes for a turn without a model.
pub fn default_model() -> &'static str {
    let version = std::process::Command::new(super::super::program())
        .arg("--version")
        .output()
        .unwrap();
    match String::from_utf8(version.stdout).unwrap().trim() {
        "codex-cli 0.169.0" => "gpt-6.1-sol",
        _ => "gpt-6.2-sol",
    }
}

pub const OTHER_MODEL: &str = "gpt-5.5";

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ends {
    EndTurn,
    Cancelled,
    Timeout,
    /// With this code and reason.
    Error(&'static str, &'static str),
    /// The model calls a tool that it is not offered.
    NotOffered,
}

const ROW: Row = Row {
    name: "",
    turns: &[],
    with: With::Nothing,
    ends: Ends::EndTurn,
    said: &[],
    in_any_order: false,
    leaves_agents: false,
    is_compacted: false,
};

/// With the settings that a worker has by default.
pub const DEFAULT: &[Row] = &[
    Row {
        name: "plain",
        turns: &["say: Hello."],
        said: &["Hello."],
        ..ROW
    },
    Row {
        name: "thinking",
        turns: &["think: Hm.\nsay: One.\nsay: Two."],
        said: &["One.", "Two."],
        ..ROW
    },
    Row {
        name: "resume",
        turns: &["say: First.", "say: Second."],
        said: &["Second."],
        ..ROW
    },
    Row {
        name: "command",
        turns: &["run: echo one; exit 3\nsay: Done."],
        said: &["Done."],
        ..ROW
    },
    Row {
        name: "parallel",
        turns: &["together: echo a | echo b | echo c\nsay: Done."],
        said: &["Done."],
        in_any_order: true,
        ..ROW
    },
    Row {
        name: "left_command",
        turns: &["leave: sleep 100000\nsay: Left."],
        said: &["Left."],
        ..ROW
    },
    Row {
        name: "patch",
        turns: &["patch: notes.txt\nsay: Written."],
        said: &["Written."],
        ..ROW
    },
    Row {
        name: "agent_awaited",
        turns: &["spawn: kid run: echo kid >> kid.txt;;say: Kid done.\nawait\nsay: Parent done."],
        said: &["Parent done."],
        ..ROW
    },
    // The agent works in a command, or thinks between commands, when its parent ends.
    Row {
        name: "agent_left_in_a_command",
        turns: &[
            "spawn: kid run: while date >> kid.txt; do sleep 0.1; done\n\
             run: until [ -e kid.txt ]; do sleep 0.05; done\nsay: Left it.",
            "say: Next.",
        ],
        said: &["Next."],
        ..ROW
    },
    Row {
        name: "agent_left",
        turns: &[
            "spawn: kid run: date >> kid.txt;;wait: 1;;run: date >> kid.txt;;wait: 1;;\
             run: date >> kid.txt;;wait: 1;;run: date >> kid.txt\n\
             run: until [ -e kid.txt ]; do sleep 0.05; done\nsay: Left it.",
            "nap: 2\nsay: Next.",
        ],
        said: &["Next."],
        ..ROW
    },
    Row {
        name: "agent_just_spawned",
        turns: &["spawn: kid wait: 0.5;;run: date >> kid.txt\nsay: Left it."],
        said: &["Left it."],
        leaves_agents: true,
        ..ROW
    },
    Row {
        name: "agent_of_an_agent",
        turns: &[
            "spawn: kid spawn: grandkid wait: 0.3;;run: date >> kid.txt;;wait: 0.3;;run: date >> kid.txt\n\
             nap: 0.5\nsay: Left them.",
        ],
        said: &["Left them."],
        leaves_agents: true,
        ..ROW
    },
    // Off unless the operator switches it on.
    Row {
        name: "goal",
        turns: &["goal: look\nsay: Over.\n@run: date >> goal.txt"],
        ends: Ends::NotOffered,
        ..ROW
    },
    Row {
        name: "nap",
        turns: &["nap: 0.5\nsay: Rested."],
        said: &["Rested."],
        ..ROW
    },
    Row {
        name: "mcp",
        turns: &["mcp: stand-in work {\"steps\": 3, \"pause_ms\": 50}\nsay: Worked."],
        said: &["Worked."],
        ..ROW
    },
    Row {
        name: "question",
        turns: &["ask: Which?\nsay: Asked."],
        said: &["Which?\n- yes\n- no", "Asked."],
        ..ROW
    },
    Row {
        name: "compaction",
        turns: &["cost: 60000\nsay: Much.", "say: Little."],
        said: &["Little."],
        is_compacted: true,
        ..ROW
    },
    Row {
        name: "overflow",
        turns: &["run: echo a\nfail: context"],
        ends: Ends::Error("turn.failed", "context_window"),
        ..ROW
    },
    Row {
        name: "overflow_again",
        turns: &["fail: context", "run: echo a\nfail: context"],
        ends: Ends::Error("turn.failed", "context_window"),
        ..ROW
    },
    Row {
        name: "overflow_third",
        turns: &[
            "fail: context",
            "run: echo a\nfail: context",
            "run: echo a\nrun: echo b\nfail: context",
        ],
        ends: Ends::Error("turn.failed", "context_window"),
        ..ROW
    },
    Row {
        name: "overflow_survived",
        turns: &["run: echo a\nfail: context", "say: Next."],
        said: &["Next."],
        ..ROW
    },
    // They were not paid for, in a conversation that has spent before.
    Row {
        name: "quota",
        turns: &["say: First.", "fail: quota"],
        ends: Ends::Error("turn.failed", "usage_limit"),
        ..ROW
    },
    Row {
        name: "timeout_before_an_answer",
        turns: &["say: First.", "hang"],
        with: With::Timeout,
        ends: Ends::Timeout,
        ..ROW
    },
    Row {
        name: "cancel",
        turns: &["run: touch begun; sleep 100000"],
        with: With::Cancel,
        ends: Ends::Cancelled,
        ..ROW
    },
    Row {
        name: "cancel_with_agent",
        turns: &["spawn: kid run: touch begun; while date >> kid.txt; do sleep 0.1; done\nawait"],
        with: With::Cancel,
        ends: Ends::Cancelled,
        leaves_agents: true,
        ..ROW
    },
    Row {
        name: "timeout",
        turns: &["run: sleep 100000"],
        with: With::Timeout,
        ends: Ends::Timeout,
        ..ROW
    },
    Row {
        name: "lost_thread",
        turns: &["say: First.", "say: Anew."],
        with: With::LostThread,
        said: &["Anew."],
        ..ROW
    },
    Row {
        name: "model_of_an_earlier_turn",
        turns: &["say: First.", "say: Second."],
        with: With::ModelBefore,
        said: &["Second."],
        ..ROW
    },
    Row {
        name: "model",
        turns: &["say: First.", "say: Second."],
        with: With::Model,
        said: &["Second."],
        ..ROW
    },
    Row {
        name: "effort",
        turns: &["say: First.", "say: Second."],
        with: With::Effort,
        said: &["Second."],
        ..ROW
    },
    Row {
        name: "effort_of_an_earlier_turn",
        turns: &["say: First.", "say: Second."],
        with: With::EffortBefore,
        said: &["Second."],
        ..ROW
    },
    Row {
        name: "schema",
        turns: &["say: {\"a\": 1}"],
        with: With::Schema,
        said: &["{\"a\": 1}"],
        ..ROW
    },
    Row {
        name: "image",
        turns: &["say: Seen."],
        with: With::Image,
        said: &["Seen."],
        ..ROW
    },
];

/// Where the operator has switched goals on. On a busy machine codex may have
/// started a turn for one before it is stopped; its request is not answered by then,
/// so that it is seen to be abandoned.
pub const GOALS: &[Row] = &[
    Row {
        name: "goal",
        turns: &[
            "goal: look\nsay: Over.\n@hold: goals\n@run: date >> goal.txt",
            "say: Next.",
        ],
        said: &["Next."],
        ..ROW
    },
    Row {
        name: "goal_last",
        turns: &["goal: look\nsay: Over.\n@hold: goals\n@run: date >> goal.txt"],
        said: &["Over."],
        ..ROW
    },
    Row {
        name: "goal_cancelled",
        turns: &[
            "goal: look\nrun: touch begun; sleep 100000\n@hold: goals\n@run: date >> goal.txt",
        ],
        with: With::Cancel,
        ends: Ends::Cancelled,
        ..ROW
    },
];
