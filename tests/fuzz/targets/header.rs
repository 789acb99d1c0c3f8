//! Properties as the protocol wants them, but for what is in their strings and
//! how deep they are: after the filter, lapin's parser reads all of them.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fn short(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let length: u8 = input.arbitrary()?;
    let text = input.bytes(usize::from(length).min(input.len()))?;
    Ok([&[text.len() as u8], text].concat())
}

fn sized(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u32).to_be_bytes()[..], octets].concat()
}

fn value(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    // Containers around it first, without recursion.
    let mut around = Vec::new();
    let scalar = loop {
        match input.arbitrary::<u8>()? % 24 {
            14..18 => around.push(b'A'),
            18..22 => around.push(b'F'),
            kind => break kind,
        }
    };
    let fixed: &[(u8, usize)] = &[
        (b't', 1),
        (b'b', 1),
        (b'B', 1),
        (b's', 2),
        (b'u', 2),
        (b'I', 4),
        (b'i', 4),
        (b'l', 8),
        (b'f', 4),
        (b'd', 8),
        (b'D', 5),
        (b'T', 8),
        (b'V', 0),
    ];
    let mut value = match fixed.get(usize::from(scalar)) {
        Some((kind, size)) => [&[*kind], input.bytes(*size)?].concat(),
        None => {
            let text = short(input)?;
            [vec![b'S'], sized(&text[1..])].concat()
        }
    };
    for kind in around.into_iter().rev() {
        let name = if kind == b'F' {
            short(input)?
        } else {
            Vec::new()
        };
        value = [vec![kind], sized(&[name, value].concat())].concat();
    }
    Ok(value)
}

fn frame(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let flags = input.arbitrary::<u16>()? & !3;
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    payload.extend(flags.to_be_bytes());
    for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
        match bit {
            13 => {
                let mut entries = Vec::new();
                while let (Ok(name), Ok(value)) = (short(input), value(input)) {
                    entries.extend([name, value].concat());
                    if input.ratio(1, 4)? {
                        break;
                    }
                }
                payload.extend(sized(&entries));
            }
            12 | 11 => payload.push(input.arbitrary()?),
            6 => payload.extend(input.arbitrary::<[u8; 8]>()?),
            _ => payload.extend(short(input)?),
        }
    }
    Ok([&[2, 0, 1][..], &sized(&payload), &[0xCE]].concat())
}

fuzz_target!(|input: &[u8]| {
    let Ok(frame) = frame(&mut Unstructured::new(input)) else {
        return;
    };
    let done = fuzz::filtered(&frame, usize::MAX);
    assert_eq!(fuzz::parsed(&done), Some(1));
    if frame.len() <= 128 << 10 {
        assert_eq!(done.len(), frame.len());
    }
    assert_eq!(fuzz::filtered(&done, usize::MAX), done);
});
