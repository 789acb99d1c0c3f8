//! What codex, or a process that can write to its stdout, prints in one turn.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use turn_worker::guard::Exit;
use turn_worker::codex::lines::{Line, Lines};
use turn_worker::codex::translate::Translator;
use turn_worker::event::EventBody;

const MAX_LINE: usize = 4096;

/// Every result belongs to one call, and every call gets one.
#[derive(Default)]
struct Tools {
    known: HashSet<String>,
    open: HashSet<String>,
}

impl Tools {
    fn see(&mut self, event: &EventBody) {
        match event {
            EventBody::ToolUse { id, .. } => {
                assert!(self.known.insert(id.clone()), "{id:?} stands for two calls");
                self.open.insert(id.clone());
            }
            EventBody::ToolResult { tool_use_id, .. } => {
                assert!(self.open.remove(tool_use_id), "{tool_use_id:?} is not open");
            }
            _ => {}
        }
        let json = serde_json::to_string(event).expect("an event encodes");
        let again: EventBody = serde_json::from_str(&json).expect("an event decodes");
        assert_eq!(&again, event);
    }
}

fuzz_target!(|input: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime starts");
    for mut read in fuzz::readers() {
        fuzz::bounded(input, 128, 256 << 10, || {
            let mut tools = Tools::default();
            let mut translator = Translator::new();
            let mut lines = Lines::new(input, MAX_LINE);
            while let Some(line) = runtime.block_on(lines.next()).expect("memory can be read") {
                let Line::Whole(line) = line else { continue };
                assert!(line.len() <= MAX_LINE);
                for event in read(&line) {
                    translator
                        .translate(event)
                        .iter()
                        .for_each(|event| tools.see(event));
                }
            }
            let stderr = String::from_utf8_lossy(input);
            let finished = translator.finish(&Exit::Code(1), &stderr);
            finished.events.iter().for_each(|event| tools.see(event));
            assert!(tools.open.is_empty(), "{:?} have no result", tools.open);
            assert!(finished.unknown.len() <= 33);
        });
    }
});
