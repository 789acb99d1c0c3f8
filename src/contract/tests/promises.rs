//! What version 1 has promised stays true.

use super::examples::{FROZEN, controls, events, path, read, requests, turns, understood};
use super::*;
use crate::amqp::messages::{Control, Decoded};
use crate::client::TurnMessage;

fn beside(example: &super::examples::Example, ending: &str) -> Value {
    let file = example.beside(ending);
    let text = std::fs::read(&file)
        .unwrap_or_else(|e| panic!("{}: {e}; ops/contract makes it", file.display()));
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn version_1s_requests_are_accepted_and_understood_as_ever() {
    for request in requests() {
        let accepted = request
            .parse()
            .unwrap_or_else(|r| panic!("{}: {r}", request.name));
        assert_eq!(
            understood(&accepted),
            beside(&request, "understood"),
            "{}",
            request.name
        );
    }
}

#[test]
fn version_1s_events_are_read_as_ever() {
    for event in events() {
        let message = TurnMessage::parse(&event.body).unwrap();
        let body = message
            .body
            .unwrap_or_else(|| panic!("{} is no event any more", event.name));
        assert_eq!(body.kind(), message.kind);
        let mut again = serde_json::to_value(&body).unwrap();
        for field in ["turn_id", "workspace", "attempt", "seq", "time"] {
            if let Some(value) = event.value().unwrap().get(field) {
                again[field] = value.clone();
            }
        }
        assert_eq!(again, event.value().unwrap(), "{}", event.name);
    }
    for turn in turns() {
        assert_eq!(read(&turn), beside(&turn, "read"), "{}", turn.name);
    }
}

#[test]
fn version_1s_control_messages_are_understood_as_ever() {
    for message in controls() {
        let value = message.value().unwrap();
        let decoded = Control::decode(&message.body);
        let (action, id, place) = match &decoded {
            Ok(Decoded::Known(Control::Cancel {
                turn_id, workspace, ..
            })) => ("cancel", turn_id, workspace.as_deref()),
            Ok(Decoded::Known(Control::Describe { turn_id, workspace })) => {
                ("describe", turn_id, Some(&**workspace))
            }
            other => panic!("{} is {other:?}", message.name),
        };
        assert_eq!(value["action"], action);
        assert_eq!(value["turn_id"], **id);
        assert_eq!(value["workspace"].as_str(), place);
    }
}

/// A change of a frozen file needs a change of the list, too, which does not
/// happen by accident.
#[test]
fn version_1s_files_are_all_there_and_unchanged() {
    let listed = std::fs::read_to_string(path(FROZEN).join("FROZEN")).unwrap();
    let found = super::files::checksums();
    for line in listed.lines() {
        assert!(
            found.iter().any(|file| file == line),
            "{FROZEN}: {line:?} was changed or is gone; put what is new into a file of another name"
        );
    }
    for file in &found {
        assert!(
            listed.lines().any(|line| line == file),
            "{FROZEN}: {file:?} is not listed; run ops/contract"
        );
    }
}
