//! What comes along with a prompt, as the model gets it.

use std::fs;

use serde_json::json;

use super::Codex;
use crate::support::host::Turn;

const ENGINES: [&str; 2] = ["exec", "app-server"];

fn run(codex: &Codex, arguments: &[&str], prompt: &str) -> Turn {
    let mut command = codex.call(&["run", "--json", "--workspace", "a"]);
    command.args(arguments).arg("-");
    codex.start_command(command, "a", prompt).ended()
}

#[test]
fn the_model_is_told_the_schema_and_its_answer_is_a_value() {
    for engine in ENGINES {
        let codex = Codex::new().map(|host| host.set("CODEX_ENGINE", engine));
        let file = codex.path().join("schema.json");
        let schema = json!({"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "number"}}});
        fs::write(&file, schema.to_string()).unwrap();
        let schema_arg = ["--output-schema", file.to_str().unwrap()];
        for (number, text) in [(1, "First."), (2, "Again.")] {
            let prompt = format!("{text}\nsay: {{\"b\": {number}}}");
            let turn = run(&codex, &schema_arg, &prompt);
            turn.assert_end_turn();
            assert_eq!(turn.end()["structured"], json!({"b": number}), "{engine}");
            assert_eq!(turn.notices(), [""; 0]);
            assert_eq!(codex.asked(text, 1).output_schema, Some(schema.clone()));
        }
        let plain = run(&codex, &[], "Third.\nsay: {}");
        assert_eq!(plain.end().get("structured"), None);
        assert_eq!(codex.asked("Third.", 1).output_schema, None);
    }
}
