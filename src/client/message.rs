//! One message from the events exchange, as far as this version knows it.

use serde::Deserialize;

use crate::event::EventBody;

/// Types and words that a newer worker knows are no reason to fail.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnMessage {
    pub turn_id: String,
    /// `None` from a worker older than the field, but for `message_start`.
    pub workspace: Option<String>,
    pub attempt: u32,
    pub seq: u64,
    pub kind: String,
    /// `None` if this version does not know the type, or a word in it.
    pub body: Option<EventBody>,
    /// As it was published, on one line.
    pub json: String,
}

impl TurnMessage {
    /// `None` if it is no event.
    pub fn parse(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Envelope {
            turn_id: String,
            #[serde(default)]
            workspace: Option<String>,
            attempt: u32,
            seq: u64,
            #[serde(rename = "type")]
            kind: String,
        }
        let Envelope {
            turn_id,
            workspace,
            attempt,
            seq,
            kind,
        } = serde_json::from_slice(json).ok()?;
        let text = std::str::from_utf8(json).ok()?;
        Some(Self {
            turn_id,
            workspace,
            attempt,
            seq,
            kind,
            body: serde_json::from_slice(json).ok(),
            // In JSON a line break is white space between tokens, or no JSON.
            json: text.trim().replace(['\n', '\r'], " "),
        })
    }

    pub fn is_end(&self) -> bool {
        self.kind == "message_end"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_worker_says_is_taken_as_far_as_it_goes() {
        let known = br#"{"turn_id":"t","attempt":1,"seq":2,"time":"x","type":"text_delta","item_id":"i","text":"hi","more":1}"#;
        let message = TurnMessage::parse(known).unwrap();
        assert!(matches!(message.body, Some(EventBody::TextDelta { .. })));
        let unknown = b"{\"turn_id\":\"t\",\"attempt\":1,\r\n\"seq\":2,\"type\":\"message_end\",\"stop_reason\":\"bored\"}\n";
        let message = TurnMessage::parse(unknown).unwrap();
        assert!(message.is_end() && message.body.is_none());
        assert_eq!(message.json.lines().count(), 1);
        for no_event in [&b"{}"[..], b"[]", b"\xff", b"{\"turn_id\":\"t\"}"] {
            assert_eq!(TurnMessage::parse(no_event), None);
        }
    }
}
