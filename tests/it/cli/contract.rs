//! `turn-worker validate` and `turn-worker schema`: what a producer asks
//! before it sends anything.

use std::fs::{self, File};
use std::path::Path;

use serde_json::{Value, json};

use super::call::{Call, Done};

const CONTRACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/contract");

fn example(name: &str) -> String {
    format!("{CONTRACT}/examples/{name}")
}

fn read(file: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn told(done: &Done) -> Value {
    serde_json::from_str(&done.out).unwrap()
}

#[tokio::test]
async fn all_errors_of_a_request_are_printed_as_a_worker_would() {
    let file = example("rejected/by-schema/everything-at-once.json");
    let error = read(example("rejected/by-schema/everything-at-once.error.json"));
    let done = Call::new(&["validate", &file]).run().await.ended(1);
    let told = told(&done);
    assert_eq!(told["valid"], false);
    assert_eq!(told["code"], error["error"]["code"]);
    assert_eq!(told["message"], error["error"]["message"]);
    assert_eq!(told["violations"], error["violations"]);

    let on_terminal = Call::new(&["validate", &file])
        .env("NO_COLOR", "1")
        .start_on_terminal();
    let done = on_terminal.done().await.ended(1);
    let out = done.out.replace("\r\n", "\n");
    assert!(
        out.starts_with(
            "not valid: request.invalid\nturn_id\n  found    \"a b\"\n  expected 1 to 128 of "
        ),
        "{out}"
    );
    assert!(
        out.contains("enqueued_at\n  found    \"yesterday\"\n  expected a time in RFC 3339\n"),
        "{out}"
    );
}

/// As the workers answer it.
#[tokio::test]
async fn a_broken_body_is_judged_with_the_id_and_the_cause_that_are_found_in_it() {
    let file = example("rejected/by-worker/lone-surrogate.txt");
    let error = read(example("rejected/by-worker/lone-surrogate.error.json"));
    let done = Call::new(&["validate", &file]).run().await.ended(1);
    assert_eq!(told(&done)["message"], error["error"]["message"]);
    assert_eq!(
        told(&done)["turn_id"],
        "0199a213-81c0-7800-8aa1-bbab2a035a53"
    );
    let file = example("rejected/by-worker/no-json.txt");
    let done = Call::new(&["validate", &file]).run().await.ended(1);
    assert_eq!(told(&done)["turn_id"], Value::Null);
}

#[tokio::test]
async fn a_good_request_is_printed_as_understood_with_its_unused_fields() {
    let file = File::open(example("v1/requests/blocks-are-joined.json")).unwrap();
    let done = Call::new(&["validate", "-"])
        .stdin(file)
        .run()
        .await
        .ended(0);
    assert_eq!(
        told(&done)["understood"]["messages"][0]["content"],
        "Look at this:\nfix it"
    );
    assert_eq!(
        told(&done)["ignored"],
        json!([{"field": "messages[0].content[1]", "what": "a block of type \"x-note\"", "meant": null}])
    );

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("request.json");
    let mut request = read(example("v1/requests/minimal.json"));
    request["timeout"] = json!(60);
    request["zzz\u{1b}[31m"] = json!(1);
    fs::write(&file, request.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let done = Call::new(&["validate", file]).run().await.ended(0);
    assert_eq!(
        told(&done)["ignored"][0],
        json!({"field": "timeout", "what": "an unknown field", "meant": "timeout_s"})
    );
    let done = Call::new(&["validate", file])
        .env("NO_COLOR", "1")
        .start_on_terminal()
        .done()
        .await
        .ended(0);
    assert!(
        done.out
            .contains("valid: turn 0199a213-81c0-7800-8aa1-bbab2a035a53 in acme/website"),
        "{done:?}"
    );
    assert!(
        done.out
            .contains("ignored: timeout, an unknown field; did you mean timeout_s?"),
        "{done:?}"
    );
    assert!(!done.out.contains('\u{1b}'), "{done:?}");
}

#[tokio::test]
async fn large_integers_are_shown_as_they_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("request.json");
    let request = read(example("v1/requests/minimal.json")).to_string();
    let metadata = r#""metadata":{"n":123456789012345678901234567890}"#;
    let request = request.replacen('{', &format!("{{{metadata},"), 1);
    fs::write(&file, request).unwrap();
    let file = file.to_str().unwrap();
    let done = Call::new(&["validate", file]).run().await.ended(0);
    assert!(done.out.contains(metadata), "{done:?}");
}

#[tokio::test]
async fn what_of_the_messages_is_not_used_is_listed() {
    let file = example("v1/requests/last-user-message-counts.json");
    let done = Call::new(&["validate", &file]).run().await.ended(0);
    let told = told(&done);
    let ignored = told["ignored"].as_array().unwrap();
    let listed: Vec<&Value> = ignored.iter().map(|part| &part["field"]).collect();
    assert_eq!(
        listed,
        ["messages[0]", "messages[1]", "messages[2]", "messages[3]"]
    );
    assert_eq!(
        told["understood"]["notices"][0]["code"],
        "request.content_ignored"
    );
    let file = example("rejected/by-worker/last-message-of-unknown-blocks.json");
    let done = Call::new(&["validate", &file]).run().await.ended(1);
    let told = self::told(&done);
    assert_eq!(
        told["violations"],
        json!([{"field": "messages[2].content[0].type", "found": "\"input_text\"", "allowed": "\"text\" or \"image\""}])
    );
    assert_eq!(told["ignored"][2]["meant"], Value::Null);
    assert_eq!(told["ignored"][3]["meant"], "text");
}

#[tokio::test]
async fn a_control_message_is_judged_as_the_workers_do() {
    let file = example("v1/control/cancel-with-unknown-fields.json");
    let call = Call::new(&["validate", "--control", &file]);
    let done = told(&call.run().await.ended(0));
    assert_eq!(done["valid"], true);
    assert_eq!(done["understood"]["action"], "cancel");
    assert_ne!(done["ignored"], json!([]));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cancel.json");
    let file = file.to_str().unwrap();
    fs::write(file, r#"{"action":"cancel","turnId":"t"}"#).unwrap();
    let done = Call::new(&["validate", "--control", file])
        .run()
        .await
        .ended(1);
    let done = told(&done);
    assert_eq!(done["code"], "unusable_field");
    assert_eq!(done["violations"][0]["field"], "turn_id");
    assert_eq!(done["ignored"][0]["meant"], "turn_id");
    fs::write(file, r#"{"action":"stop","turn_id":"t"}"#).unwrap();
    let done = Call::new(&["validate", "--control", file])
        .env("NO_COLOR", "1")
        .start_on_terminal()
        .done()
        .await
        .ended(1);
    let text = "not valid: unknown_action\r\naction\r\n  found    \"stop\"\r\n  expected \"cancel\" or \"describe\"\r\n";
    assert_eq!(done.out, text);

    // What only the message's properties have is named.
    let file = example("v1/control/describe.json");
    let call = Call::new(&["validate", "--control", &file]);
    let done = told(&call.run().await.ended(0));
    assert_eq!(done["understood"]["workspace"], "acme/website");
    let unseen = done["not_checked"][0].as_str().unwrap();
    assert!(unseen.contains("reply_to"), "{unseen}");
}

#[tokio::test]
async fn a_workers_own_limits_hold_where_they_are_set_and_no_others_are_asked_for() {
    let file = example("v1/requests/every-field.json");
    let call = || {
        Call::new(&["validate", &file])
            .set("AMQP_URL", "nonsense")
            .set("SLOTS", "none")
    };
    call().run().await.ended(0);
    let done = call().set("CODEX_MODELS", "gpt-4").run().await.ended(1);
    assert_eq!(
        told(&done)["message"],
        "model: found \"gpt-5.5\", expected one of gpt-4"
    );
    call()
        .set("MAX_REQUEST_BYTES", "0")
        .run()
        .await
        .ended(2)
        .says(&["TURN_WORKER_MAX_REQUEST_BYTES"]);

    let path = example("v1/requests/workspace-as-a-path.json");
    Call::new(&["validate", &path]).run().await.ended(1);
    let call = Call::new(&["validate", &path]).set("WORKSPACE_ROOT", "/srv/workspaces");
    call.run().await.ended(0);
}

#[tokio::test]
async fn what_can_not_be_read_is_no_verdict() {
    let nowhere = Call::new(&["validate", "/nowhere/request.json"]);
    nowhere
        .run()
        .await
        .ended(2)
        .says(&["can't read /nowhere/request.json", "No such file"]);
    Call::new(&["validate", "/dev/zero"])
        .run()
        .await
        .ended(2)
        .says(&["more than", "bytes"]);
    Call::new(&["validate"]).run().await.ended(2);
}

#[tokio::test]
async fn the_schemas_are_printed_as_they_are_filed() {
    for (name, file) in [
        ("request", "request.schema.json"),
        ("event", "event.schema.json"),
        ("control", "control.schema.json"),
        ("description", "description.schema.json"),
        ("asyncapi", "asyncapi.json"),
    ] {
        let done = Call::new(&["schema", name]).run().await.ended(0);
        assert_eq!(
            done.out,
            fs::read_to_string(format!("{CONTRACT}/{file}")).unwrap()
        );
    }
    let done = Call::new(&["schema"])
        .set("PREFIX", "mine")
        .run()
        .await
        .ended(0);
    let exchange = &told(&done)["channels"]["requests"]["bindings"]["amqp"]["exchange"];
    assert_eq!(exchange["name"], "mine.requests");
    Call::new(&["schema", "nothing"]).run().await.ended(2);
}
