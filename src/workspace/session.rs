//! The session file: which codex thread the next turn of a workspace resumes.
//!
//! It lies in the agent's own directory, so what stands there may be anything
//! that an agent can make: it is read without following or waiting, and what
//! it names is a wish that [`super::resolve_session`] judges.

use std::io::Read;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::dir::{Dir, Owner, kind};
use super::error::DiskError;

pub const SESSION_FILE: &str = ".plexum-codex-session";
/// Of a fixed name, so that a crash leaves one stray file at most in there.
const TEMP: &str = ".plexum-codex-session.tmp~";
const MAX_BYTES: u64 = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionFile {
    None,
    Thread(Uuid),
    Unusable { why: String },
}

pub(super) fn read(dir: &Dir) -> Result<SessionFile, DiskError> {
    let unusable = |why: String| Ok(SessionFile::Unusable { why });
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match dir.open_raw(SESSION_FILE, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(SessionFile::None),
        Err(Errno::LOOP) => return unusable("it is a symbolic link, not a file".into()),
        Err(Errno::NXIO | Errno::NODEV) => return unusable("it is not a file".into()),
        Err(Errno::ACCESS) => return unusable("it may not be read".into()),
        // By a lease, which an agent may take on a file of its user's.
        Err(Errno::AGAIN) => return unusable("somebody holds it".into()),
        Err(errno) => return Err(dir.error("open", SESSION_FILE, errno)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| dir.error("look at", SESSION_FILE, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return unusable(format!("it is {}, not a file", kind(&stat)));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| dir.error("read", SESSION_FILE, error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return unusable(format!("it is longer than {MAX_BYTES} bytes"));
    }
    Ok(parse(&bytes))
}

/// Only the form with hyphens, which is codex's own.
fn parse(bytes: &[u8]) -> SessionFile {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    match Uuid::try_parse(text) {
        Ok(thread) if text.len() == 36 => SessionFile::Thread(thread),
        _ => SessionFile::Unusable {
            why: "it holds no thread id (a UUID)".into(),
        },
    }
}

/// A rename puts it there: what was in its place (but a directory) is
/// replaced and never written through.
pub(super) fn write(dir: &Dir, thread: Uuid, owner: Option<Owner>) -> Result<(), DiskError> {
    let line = format!("{thread}\n");
    dir.write_atomic_over(TEMP, SESSION_FILE, line.as_bytes(), owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkfifoat;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    const THREAD: Uuid = Uuid::from_u128(0x0199_a213_81c0_7800_8aa1_bbab_2a03_5a53);

    fn agent() -> (tempfile::TempDir, Dir, PathBuf) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let path = tmp.path().join(SESSION_FILE);
        (tmp, dir, path)
    }

    #[test]
    fn reads_what_it_and_others_write() {
        let (_tmp, dir, path) = agent();
        assert_eq!(read(&dir).unwrap(), SessionFile::None);
        write(&dir, THREAD, None).unwrap();
        assert_eq!(read(&dir).unwrap(), SessionFile::Thread(THREAD));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(dir.names().unwrap(), [SESSION_FILE]);
        std::fs::write(
            &path,
            format!(" {} \r\n", THREAD.to_string().to_uppercase()),
        )
        .unwrap();
        assert_eq!(read(&dir).unwrap(), SessionFile::Thread(THREAD));
    }

    #[test]
    fn g8_only_a_short_regular_file_with_a_uuid_names_a_thread() {
        let (_tmp, dir, path) = agent();
        let padded = format!("{THREAD}{}", " ".repeat(1024));
        let braced = format!("{{{THREAD}}}");
        let simple = THREAD.simple().to_string();
        for text in ["", "\n", "--help", "latest", &padded, &braced, &simple] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(read(&dir).unwrap(), SessionFile::Unusable { .. }));
        }
        std::fs::write(&path, [0xff; 36]).unwrap();
        assert!(matches!(read(&dir).unwrap(), SessionFile::Unusable { .. }));
    }

    /// Puts each kind of thing that is no file in the session file's place.
    fn for_each_odd_thing(check: impl Fn(&Dir, &PathBuf, &str)) {
        for kind in ["symlink", "fifo", "socket"] {
            let (tmp, dir, path) = agent();
            std::fs::write(tmp.path().join("other"), THREAD.to_string()).unwrap();
            match kind {
                "symlink" => symlink("other", &path).unwrap(),
                "fifo" => mkfifoat(&dir, SESSION_FILE, Mode::RUSR | Mode::WUSR).unwrap(),
                _ => drop(UnixListener::bind(&path).unwrap()),
            }
            check(&dir, &path, kind);
        }
    }

    #[test]
    fn g8_what_is_no_file_is_neither_followed_nor_waited_for() {
        for_each_odd_thing(|dir, _, kind| {
            let read = read(dir).unwrap();
            assert!(matches!(read, SessionFile::Unusable { .. }), "{kind}");
        });
        let (_tmp, dir, path) = agent();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(read(&dir).unwrap(), SessionFile::Unusable { .. }));
    }

    #[test]
    fn g8_writing_replaces_what_is_no_file() {
        for_each_odd_thing(|dir, path, kind| {
            write(dir, Uuid::nil(), None).unwrap();
            assert_eq!(read(dir).unwrap(), SessionFile::Thread(Uuid::nil()));
            let other = std::fs::read_to_string(path.with_file_name("other")).unwrap();
            assert_eq!(other, THREAD.to_string(), "{kind}");
        });
    }

    #[test]
    fn g8_a_symlink_in_the_temporary_files_place_is_not_written_through() {
        let (tmp, dir, _) = agent();
        symlink("target", tmp.path().join(TEMP)).unwrap();
        write(&dir, THREAD, None).unwrap();
        assert!(!tmp.path().join("target").exists());
        assert_eq!(read(&dir).unwrap(), SessionFile::Thread(THREAD));
    }

    #[test]
    fn a_directory_in_its_place_is_an_error() {
        let (_tmp, dir, path) = agent();
        std::fs::create_dir(&path).unwrap();
        assert!(write(&dir, THREAD, None).is_err());
        assert_eq!(dir.names().unwrap(), [SESSION_FILE]);
    }
}
