//! Octets of a broker, as the filter hands them to lapin's parser.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let done = fuzz::bounded(input, 4, 64 << 10, || fuzz::filtered(input, usize::MAX));
    assert!(done.len() <= input.len());
    let piece = usize::from(*input.first().unwrap_or(&1)).max(1);
    assert_eq!(fuzz::filtered(input, piece), done);
    assert_eq!(fuzz::filtered(&done, usize::MAX), done);
    // lapin may not understand it; a broker does not send that.
    let _ = fuzz::parsed(&done);
});
