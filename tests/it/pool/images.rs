//! Images with a prompt, from a request to codex.

use std::fs;
use std::os::unix::fs::symlink;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::engine::is_exec;
use crate::support::pool::{Pool, turn};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n of 23 bytes...";

fn in_the_request(bytes: &[u8]) -> Value {
    json!({"type": "base64", "media_type": "image/png", "data": STANDARD.encode(bytes)})
}

fn in_the_workspace(path: &str) -> Value {
    json!({"type": "path", "path": path})
}

/// A turn with these images in its prompt.
fn showing(id: &str, workspace: &str, script: &[&str], sources: &[Value]) -> Value {
    let mut request = turn(id, workspace, script);
    let text = json!({"type": "text", "text": request["messages"][0]["content"]});
    let images = sources
        .iter()
        .map(|source| json!({"type": "image", "source": source}));
    request["messages"][0]["content"] = [text].into_iter().chain(images).collect();
    request
}

/// Also on a server that waits for its second turn, where there are such.
#[tokio::test]
async fn images_reach_codex_in_their_order_and_only_with_their_turn() {
    let mut pool = Pool::start(1, &[]).await;
    let shots = pool.root().join("a").join("shots");
    fs::create_dir_all(&shots).unwrap();
    fs::write(shots.join("a.png"), [PNG, b"and more"].concat()).unwrap();
    let sources = [in_the_request(PNG), in_the_workspace("shots/a.png")];
    for (id, said, sources) in [
        ("first", "23 31", &sources[..]),
        ("second", "31", &sources[1..]),
        ("none", "", &[]),
    ] {
        pool.enqueue(&[showing(id, "a", &["images"], sources)])
            .await;
        let turn = pool.events.ended(id).await;
        assert_eq!(turn.stop_reason(), "end_turn", "{turn:#?}");
        assert_eq!(turn.said(1), [said], "{id}");
    }
    if is_exec() {
        // What codex gets names no file that other users could open.
        let request = showing("argv", "a", &["images"], &sources);
        pool.enqueue(&[request]).await;
        pool.events.ended("argv").await;
        let argv = fs::read_to_string(pool.stand_in_file("argv")).unwrap();
        let files: Vec<&str> = argv
            .split(' ')
            .filter(|arg| arg.starts_with("--image="))
            .collect();
        assert_eq!(files.len(), 2, "{argv}");
        assert!(
            files
                .iter()
                .all(|file| file.starts_with("--image=/proc/self/fd/")),
            "{argv}"
        );
    }
    pool.stop().await;
}

/// Guards `workspace::image::read` and `ImagePath::new`.
#[tokio::test]
async fn g8_no_image_is_read_from_outside_the_workspace() {
    let mut pool = Pool::start(1, &[]).await;
    let (mine, other) = (pool.root().join("a"), pool.root().join("b"));
    for dir in [&mine, &other] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(other.join("secret.png"), PNG).unwrap();
    symlink(&other, mine.join("away")).unwrap();
    symlink(other.join("secret.png"), mine.join("link.png")).unwrap();
    fs::write(mine.join("passwd"), "root:x:0:0").unwrap();
    for (id, path, why) in [
        (
            "folder",
            "away/secret.png",
            "away is a symbolic link, not a directory",
        ),
        ("file", "link.png", "it is a symbolic link, not a file"),
        ("missing", "none.png", "there is no such file"),
        ("text", "passwd", "it does not start as any of image/png"),
    ] {
        let request = showing(id, "a", &["images"], &[in_the_workspace(path)]);
        pool.enqueue(&[request]).await;
        let turn = pool.events.ended(id).await;
        assert_eq!(
            (turn.stop_reason(), turn.attempt()),
            ("error", 1),
            "{turn:#?}"
        );
        assert_eq!(turn.error_code(), Some("turn.image_unusable"));
        let error = turn.all().find(|event| event["type"] == "error").unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        let told = format!("the image {path} can't be used: {why}");
        assert!(message.starts_with(&told), "{message}");
        assert_eq!(error["error"]["retryable"], false);
        assert!(turn.said(1).is_empty());
    }
    for (id, path) in [("up", "../b/secret.png"), ("absolute", "/etc/passwd")] {
        let request = showing(id, "a", &["images"], &[in_the_workspace(path)]);
        pool.enqueue(&[request]).await;
        let turn = pool.events.ended(id).await;
        assert_eq!(turn.error_code(), Some("request.invalid"), "{turn:#?}");
        assert_eq!(turn.attempt(), 0);
    }
    // What no name can do to the arguments.
    let flag = "--config=x.png";
    fs::write(mine.join(flag), PNG).unwrap();
    pool.enqueue(&[showing("flag", "a", &["images"], &[in_the_workspace(flag)])])
        .await;
    assert_eq!(pool.events.ended("flag").await.said(1), ["23"]);
    let argv = fs::read_to_string(pool.stand_in_file("argv")).unwrap();
    assert!(!argv.contains("config=x"), "{argv}");
    pool.stop().await;
}
