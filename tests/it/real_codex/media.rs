//! What comes along with a prompt, as the model gets it.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Codex;
use super::pool::pool;
use crate::support::host::Turn;
use crate::support::pool::turn;

/// One transparent pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

const ENGINES: [&str; 2] = ["exec", "app-server"];

fn run(codex: &Codex, arguments: &[&str], prompt: &str) -> Turn {
    let mut command = codex.call(&["run", "--json", "--workspace", "a"]);
    command.args(arguments).arg("-");
    codex.start_command(command, "a", prompt).ended()
}

#[test]
fn the_model_gets_the_schema_and_its_answer_is_a_value() {
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

#[test]
fn the_model_is_shown_the_images() {
    for engine in ENGINES {
        let codex = Codex::new().map(|host| host.set("CODEX_ENGINE", engine));
        let file = codex.path().join("a.png");
        fs::write(&file, STANDARD.decode(PNG).unwrap()).unwrap();
        let image = ["--image", file.to_str().unwrap()].repeat(2);
        // The second time codex resumes the thread.
        for text in ["Look.", "Again."] {
            let list = "ls -l /proc/self/fd | grep -c memfd";
            let turn = run(&codex, &image, &format!("{text}\nrun: {list}\nsay: Seen."));
            turn.assert_end_turn();
            assert_eq!(turn.said(), ["Seen."]);
            // codex has them open, and its commands don't.
            assert_eq!(turn.printed(), ["0\n"], "{engine}");
            let images = codex.asked(text, 1).images;
            assert_eq!(images.len(), 2, "{engine}");
            for image in images {
                assert!(
                    image.starts_with("data:image/png;base64,iVBORw0KGgo"),
                    "{image}"
                );
            }
        }
        let plain = run(&codex, &[], "Third.\nsay: Seen.");
        plain.assert_end_turn();
        assert_eq!(codex.asked("Third.", 1).images, [""; 0]);
    }
}

/// On a server that has had a turn, and for a conversation that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_warm_server_shows_images_and_keeps_to_a_schema_for_one_turn_only() {
    let (mut pool, model, _home) = pool(&[("CODEX_ENGINE", "app-server")]).await;
    let schema = json!({"type": "object", "properties": {}});
    let requests: Vec<_> = ["One.", "Two.", "Three."]
        .into_iter()
        .enumerate()
        .map(|(number, text)| {
            let mut request = turn(&format!("t{number}"), "a", &[text, "say: {}"]);
            if number == 1 {
                let prompt = request["messages"][0]["content"].clone();
                request["messages"][0]["content"] = json!([
                    {"type": "text", "text": prompt},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]);
                request["output_schema"] = schema.clone();
            }
            request
        })
        .collect();
    pool.enqueue(&requests).await;
    for (number, text) in ["One.", "Two.", "Three."].into_iter().enumerate() {
        let turn = pool.events.ended(&format!("t{number}")).await;
        assert_eq!(turn.stop_reason(), "end_turn", "{turn:#?}");
        let is_second = number == 1;
        let expected = is_second.then(|| json!({}));
        assert_eq!(turn.end().unwrap().get("structured"), expected.as_ref());
        let requests = model.requests();
        let asked = requests
            .iter()
            .find(|asked| asked.prompt.contains(text))
            .unwrap();
        assert_eq!(asked.images.len(), usize::from(is_second), "{asked:?}");
        assert_eq!(asked.output_schema, is_second.then(|| schema.clone()));
    }
    assert_eq!(pool.metric("turn_worker_servers_reused_total").await, 2.0);
    pool.stop().await;
}
