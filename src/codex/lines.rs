//! Reading lines with a limit. A longer line is skipped to its end and reported,
//! instead of ending the stream (G10).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its line feed.
    Whole(Vec<u8>),
    /// A line over the limit, thrown away but for its first bytes.
    TooLong { bytes: u64, head: Vec<u8> },
}

/// Enough to know what the line was about.
const HEAD: usize = 512;

/// Reads lines of at most `max` bytes. What follows the last line feed is a
/// line too: a process that dies in the middle of one is no reason to lose it.
#[derive(Debug)]
pub struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    /// Where in `buffer` the search for a line feed goes on.
    searched: usize,
    /// Bytes of an over-long line that are gone already.
    skipped: u64,
    /// The first of them.
    head: Vec<u8>,
    max: usize,
}

/// What one read asks for; the buffer grows beyond it only for long lines.
const CHUNK: usize = 16 << 10;

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(source: R, max: usize) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            searched: 0,
            skipped: 0,
            head: Vec::new(),
            max,
        }
    }

    /// The next line, or `None` at the end. Cancel-safe: what was read stays
    /// in the buffer.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            self.buffer.reserve(CHUNK);
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                return Ok(self.take_rest());
            }
        }
    }

    fn take_line(&mut self) -> Option<Line> {
        let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
            self.searched = self.buffer.len();
            if self.skipped > 0 || self.buffer.len() > self.max {
                if self.skipped == 0 {
                    self.head = head(&self.buffer);
                }
                self.skipped += self.buffer.len() as u64;
                self.buffer = Vec::new();
                self.searched = 0;
            }
            return None;
        };
        let end = self.searched + at;
        let rest = self.buffer.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.pop();
        self.searched = 0;
        Some(self.judge(line))
    }

    fn take_rest(&mut self) -> Option<Line> {
        self.searched = 0;
        let rest = std::mem::take(&mut self.buffer);
        (!rest.is_empty() || self.skipped > 0).then(|| self.judge(rest))
    }

    fn judge(&mut self, line: Vec<u8>) -> Line {
        let skipped = std::mem::take(&mut self.skipped);
        let begun = std::mem::take(&mut self.head);
        let bytes = skipped + line.len() as u64;
        if bytes <= self.max as u64 {
            return Line::Whole(line);
        }
        let head = match skipped {
            0 => head(&line),
            _ => begun,
        };
        Line::TooLong { bytes, head }
    }
}

fn head(line: &[u8]) -> Vec<u8> {
    line[..line.len().min(HEAD)].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn read_all(input: &[u8], max: usize) -> Vec<Line> {
        let mut lines = Lines::new(input, max);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn g10_skips_a_line_over_the_limit_and_goes_on() {
        let mut input = vec![b'x'; 100_000];
        input.extend(b"\nafter\nlast");
        assert_eq!(
            read_all(&input, 1000).await,
            [
                Line::TooLong {
                    bytes: 100_000,
                    head: vec![b'x'; HEAD],
                },
                Line::Whole(b"after".to_vec()),
                Line::Whole(b"last".to_vec()),
            ]
        );
    }

    #[tokio::test]
    async fn g10_holds_no_more_than_the_limit_and_a_chunk() {
        let input = vec![b'x'; 1 << 20];
        let mut lines = Lines::new(&input[..], 1000);
        assert_eq!(
            lines.next().await.unwrap(),
            Some(Line::TooLong {
                bytes: 1 << 20,
                head: vec![b'x'; HEAD],
            })
        );
        assert!(lines.buffer.capacity() < 4 * CHUNK);
    }

    proptest! {
        #[test]
        fn splits_any_input_as_a_plain_split_does(input in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400), max in 1usize..50) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(read_all(&input, max));
            let mut parts: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
            if parts.last().is_some_and(|last| last.is_empty()) {
                parts.pop();
            }
            let expected: Vec<Line> = parts
                .into_iter()
                .map(|part| if part.len() > max { Line::TooLong { bytes: part.len() as u64, head: part.to_vec() } } else { Line::Whole(part.to_vec()) })
                .collect();
            prop_assert_eq!(got, expected);
        }
    }
}
