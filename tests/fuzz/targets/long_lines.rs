//! One long line of codex. The input is its beginning, what is repeated in its
//! middle, and its end, each a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turn_worker::codex::translate::Translator;

/// Long enough to take more than what is allowed, if memory went by values.
const LENGTH: usize = 2 << 20;
/// The most parts of a line.
const MAX_PARTS: usize = LENGTH / 8;

fuzz_target!(|input: &[u8]| {
    let parts: Vec<&[u8]> = input.splitn(3, |byte| *byte == b'\n').collect();
    let [head, unit, tail] = parts[..] else {
        return;
    };
    if unit.is_empty() {
        return;
    }
    let line = [
        head,
        &unit.repeat((LENGTH / unit.len()).min(MAX_PARTS)),
        tail,
    ]
    .concat();
    // What may be held regardless of the length: 65,536 values, the largest of which take some 600 bytes, twice.
    fuzz::bounded(&line, 8, 80 << 20, || {
        for mut read in fuzz::readers() {
            for event in read(&line) {
                drop(Translator::new().translate(event));
            }
        }
    });
});
