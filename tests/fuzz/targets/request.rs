//! A request as any producer may send it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turn_worker::request::{
    Limits, MAX_METADATA_BYTES, MAX_PROMPT_CHARS, Properties, Scan, TurnRequest,
};

fuzz_target!(|input: &[u8]| {
    let limits = Limits {
        max_request_bytes: 256 << 10,
        max_prompt_chars: MAX_PROMPT_CHARS,
        max_metadata_bytes: MAX_METADATA_BYTES,
        models: Some(["gpt-5.5".to_owned()].into()),
        roots: vec!["/srv/workspaces".into(), "/srv".into()],
        handed_on: false,
    };
    // The first bytes may stand for a message id as well.
    let id = std::str::from_utf8(&input[..input.len().min(16)]).ok();
    let properties = Properties {
        message_id: id,
        correlation_id: Some("c"),
        timestamp: Some(input.len() as u64),
        traceparent: std::str::from_utf8(input).ok(),
        tracestate: std::str::from_utf8(input).ok(),
        content_type: id,
        content_encoding: id,
        expiration: id,
    };
    let _ = Scan::of(input);
    // A hundred times its text is what an object of one field takes; their number has a limit.
    match fuzz::bounded(input, 128, 64 << 10, || TurnRequest::parse(input, &limits, &properties)) {
        Ok(request) => {
            assert!(request.workspace.segments().all(|segment| !segment.starts_with('.')));
            let json = request.to_canonical_json();
            let again =
                TurnRequest::parse(json.as_bytes(), &Limits::accepted(), &Properties::default());
            let again = again.unwrap_or_else(|rejection| panic!("{rejection}: {json}"));
            // JSON's floats apart, which may lose a digit on their first way.
            assert_eq!(again.fingerprint(), request.fingerprint());
            assert_eq!(again.to_canonical_json(), json);
        }
        Err(rejection) => {
            let told = rejection.to_string();
            assert!(told.len() < 64 << 10, "{} bytes", told.len());
            assert!(!told.contains(|c: char| c.is_control()), "{told:?}");
            let logged = rejection.rules();
            assert!(!logged.contains(|c: char| c.is_control()), "{logged:?}");
        }
    }
});
