//! Lines of a file that may be hundreds of MB long, forwards and backwards,
//! holding no more than one chunk and one line in memory.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

/// Calls `visit` for every line from the reader's place on, without its
/// newline. Lines of more than `max_line` bytes are left out.
pub(super) fn forwards(
    mut reader: impl BufRead,
    max_line: usize,
    mut visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut line = Kept::default();
    loop {
        let chunk = match reader.fill_buf() {
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            line.take(&mut visit);
            return Ok(());
        }
        let newline = chunk.iter().position(|byte| *byte == b'\n');
        line.append(&chunk[..newline.unwrap_or(chunk.len())], max_line);
        let used = newline.map_or(chunk.len(), |at| at + 1);
        reader.consume(used);
        if newline.is_some() {
            line.take(&mut visit);
        }
    }
}

/// Calls `visit` for every line before byte `end`, the last one first, until
/// it returns something. Lines of more than `max_line` bytes are left out.
///
/// # Errors
/// No line was returned for all of the last `max_read` bytes, and there are more.
pub(super) fn backwards<T>(
    mut file: impl Read + Seek,
    end: u64,
    max_read: u64,
    chunk_size: usize,
    max_line: usize,
    mut visit: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    let mut chunk = vec![0; chunk_size];
    // The part of the current line that lies behind the chunk.
    let mut line = Kept::default();
    let mut at = end;
    while at > 0 {
        if end - at >= max_read {
            return Err(too_much());
        }
        let size = chunk_size.min(usize::try_from(at).unwrap_or(usize::MAX));
        at -= size as u64;
        file.seek(SeekFrom::Start(at))?;
        let chunk = &mut chunk[..size];
        file.read_exact(chunk)?;
        let mut rest = &chunk[..];
        while let Some(newline) = rest.iter().rposition(|byte| *byte == b'\n') {
            line.prepend(&rest[newline + 1..], max_line);
            if let Some(found) = line.take(&mut visit).flatten() {
                return Ok(Some(found));
            }
            rest = &rest[..newline];
        }
        line.prepend(rest, max_line);
    }
    Ok(line.take(&mut visit).flatten())
}

pub(super) fn too_much() -> io::Error {
    let message = "the thread's record is too long to be looked through";
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

/// A line as far as it was read, or `None` once it is too long.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Kept {
    fn append(&mut self, part: &[u8], max: usize) {
        if self.fits(part, max) {
            self.bytes.extend_from_slice(part);
        }
    }

    fn prepend(&mut self, part: &[u8], max: usize) {
        if self.fits(part, max) {
            self.bytes.splice(0..0, part.iter().copied());
        }
    }

    fn fits(&mut self, part: &[u8], max: usize) -> bool {
        self.too_long |= self.bytes.len() + part.len() > max;
        !self.too_long
    }

    /// Ends the line.
    fn take<T>(&mut self, visit: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let visited = (!self.too_long && !self.bytes.is_empty()).then(|| visit(&self.bytes));
        self.bytes.clear();
        self.too_long = false;
        visited
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn g10_both_ways_see_the_same_lines_but_no_long_ones(
            text in "[ab\n]{0,80}",
            chunk in 1..10usize,
            max in 0..10usize,
        ) {
            let expected: Vec<&[u8]> = text
                .split('\n')
                .map(str::as_bytes)
                .filter(|line| !line.is_empty() && line.len() <= max)
                .collect();

            let mut seen = Vec::new();
            let reader = BufReader::with_capacity(chunk, text.as_bytes());
            forwards(reader, max, |line| seen.push(line.to_vec())).unwrap();
            prop_assert_eq!(&seen, &expected);

            seen.clear();
            let end = text.len() as u64;
            let none = backwards(Cursor::new(&text), end, u64::MAX, chunk, max, |line| {
                seen.push(line.to_vec());
                None::<()>
            });
            prop_assert_eq!(none.unwrap(), None);
            seen.reverse();
            prop_assert_eq!(&seen, &expected);

            let last = backwards(Cursor::new(&text), end, u64::MAX, chunk, max, |line| Some(line.to_vec()));
            prop_assert_eq!(last.unwrap(), expected.last().map(|line| line.to_vec()));
        }
    }
    #[test]
    fn g10_looks_no_further_back_than_the_limit() {
        let text = [&b"first\n"[..], &[b'x'; 50]].concat();
        let look = |max_read| {
            let file = Cursor::new(&text);
            let first = |line: &[u8]| (line == b"first").then_some(());
            backwards(file, text.len() as u64, max_read, 8, 100, first)
        };
        assert_eq!(look(60).unwrap(), Some(()));
        assert!(look(40).is_err());
    }
}
