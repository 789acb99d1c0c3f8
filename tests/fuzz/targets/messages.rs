//! Control and status messages, and offers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turn_worker::amqp::messages::{Control, DecodeError, Decoded, Offer, Status};
use turn_worker::error::with_sources;
use turn_worker::request::{Limits, Properties, TurnRequest};

/// What may end up in a log line.
fn loggable<T>(decoded: Result<Decoded<T>, DecodeError>) -> Option<T> {
    let told = match decoded {
        Ok(Decoded::Known(message)) => return Some(message),
        Ok(Decoded::Unknown(what)) => what,
        Err(error) => with_sources(&error),
    };
    assert!(told.len() < 4096, "{} bytes", told.len());
    assert!(!told.contains(|c: char| c.is_control()), "{told:?}");
    None
}

fuzz_target!(|input: &[u8]| {
    fuzz::bounded(input, 64, 64 << 10, || {
        if let Some(control) = loggable(Control::decode(input)) {
            assert_eq!(loggable(Control::decode(&control.encode())), Some(control));
        }
        if let Some(status) = loggable(Status::decode(input)) {
            assert_eq!(loggable(Status::decode(&status.encode())), Some(status));
        }
        if let Some(offer) = loggable(Offer::decode(input)) {
            let request = offer.request.get().as_bytes();
            let _ = TurnRequest::parse(request, &Limits::accepted(), &Properties::default());
        }
    });
});
