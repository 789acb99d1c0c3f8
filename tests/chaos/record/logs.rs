//! What the workers' logs say.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

/// Offers that workers took, by the queue they came from.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Taken {
    pub private: usize,
    pub shared: usize,
}

/// Of all processes that logged into this folder.
pub fn read(dir: &Path) -> anyhow::Result<Taken> {
    let mut taken = Taken::default();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            count(BufReader::new(File::open(path)?), &mut taken)?;
        }
    }
    Ok(taken)
}

fn count(log: impl BufRead, taken: &mut Taken) -> std::io::Result<()> {
    // The last line of a process that was killed may have been cut off.
    for line in log.split(b'\n') {
        let Ok(line) = serde_json::from_slice::<Value>(&line?) else {
            continue;
        };
        if line["message"] == "taking the turn" {
            match line["private"] == true {
                true => taken.private += 1,
                false => taken.shared += 1,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_counted_by_their_queue() {
        let log = r#"{"message":"taking the turn","private":true}
{"message":"taking the turn","private":false,"repeat":true}
{"message":"another"}
{"message":"taking the tu"#;
        let mut taken = Taken::default();
        count(log.as_bytes(), &mut taken).unwrap();
        assert_eq!((taken.private, taken.shared), (1, 1));
    }
}
