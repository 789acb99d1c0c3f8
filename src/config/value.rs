//! Texts to values: `1h30m`, `16MiB`.

use std::time::Duration;

/// In the order in which they must stand, each at most once.
const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

const SIZE_UNITS: [(&str, u64); 4] = [
    ("", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// `90s`, `1h30m`, `500ms`. A bare number has no unit and is refused.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut milliseconds = 0u64;
    let mut units = TIME_UNITS.iter();
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = leading_number(rest)?;
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (name, tail) = tail.split_at(end);
        let (_, scale) = units.find(|(unit, _)| *unit == name)?;
        milliseconds = milliseconds.checked_add(number.checked_mul(*scale)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(milliseconds))
}

/// `256KiB`, `16MiB`, or bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, name) = leading_number(text)?;
    let (_, scale) = SIZE_UNITS.iter().find(|(unit, _)| *unit == name)?;
    number.checked_mul(*scale)
}

/// Decimal digits only: no sign, no point, no blank.
pub(super) fn count(text: &str) -> Option<u64> {
    let (number, rest) = leading_number(text)?;
    rest.is_empty().then_some(number)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// The parts between commas, without blanks around them and empty ones.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_in_falling_order() {
        let cases = [
            ("90s", Some(90_000)),
            ("2h", Some(7_200_000)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1d1h1m1s1ms", Some(90_061_001)),
            ("0s", Some(0)),
            ("", None),
            ("90", None),
            ("s", None),
            ("1.5h", None),
            ("-1s", None),
            ("1 s", None),
            ("30m1h", None),
            ("1s1s", None),
            ("1S", None),
            ("1h ", None),
            ("99999999999999999999s", None),
            ("9999999999999999999d", None),
            ("1w", None),
            ("1é", None),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(
                duration(text),
                milliseconds.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_have_binary_units_or_no_unit() {
        let cases = [
            ("1", Some(1)),
            ("256KiB", Some(256 * 1024)),
            ("16MiB", Some(16 * 1024 * 1024)),
            ("2GiB", Some(2 << 30)),
            ("16MB", None),
            ("16 MiB", None),
            ("MiB", None),
            ("-1", None),
            ("99999999999GiB", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn lists_forgive_blanks_and_commas_too_many() {
        assert_eq!(list(" a, b,,c ,").collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
