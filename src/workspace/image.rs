//! An image in a workspace: what a request names there is an agent's to
//! change, at any moment.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dir::{Dir, Found, Owner, kind};
use super::error::DiskError;
use crate::error::is_out_of_resources;
use crate::request::ImagePath;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The request's fault, or the workspace's.
    #[error("{0}")]
    Unusable(String),
    /// It may be there all the same.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// All of a file, of at most `max` bytes, that `path` names below `top`,
/// reached over no symbolic link. What is not `agents`' to read is not theirs
/// to have read by a process that may.
pub(super) fn read(
    top: &Dir,
    path: &ImagePath,
    agents: Option<Owner>,
    max: u64,
) -> Result<Vec<u8>, ImageError> {
    let unusable = ImageError::Unusable;
    let missing = || unusable("there is no such file".to_owned());
    let failed = |error: DiskError| match is_out_of_resources(&error.source) {
        true => ImageError::Disk(error),
        false => unusable(format!("can't {} it: {}", error.doing, error.source)),
    };
    let (folders, name) = path.parts();
    let mut below: Option<Dir> = None;
    for folder in folders {
        match below.as_ref().unwrap_or(top).dir(folder).map_err(failed)? {
            Found::Dir(dir) => below = Some(dir),
            Found::Missing => return Err(missing()),
            Found::Other(found) => {
                return Err(unusable(format!("{folder} is {found}, not a directory")));
            }
        }
    }
    let dir = below.as_ref().unwrap_or(top);
    // Opening a pipe would wait for its other end, for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let not_a_file = |found: &str| unusable(format!("it is {found}, not a file"));
    let file = match dir.open_raw(name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Err(missing()),
        Err(Errno::LOOP) => return Err(not_a_file("a symbolic link")),
        Err(errno) => return Err(failed(dir.error("open", name, errno))),
    };
    let stat =
        rustix::fs::fstat(&file).map_err(|errno| failed(dir.error("look at", name, errno)))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_a_file(kind(&stat)));
    }
    // A hard link needs no right to what it leads to.
    if !agents.is_none_or(|agents| can_read(agents, &stat)) {
        return Err(unusable("the agents' user may not read it".to_owned()));
    }
    let mut bytes = Vec::new();
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|error: io::Error| failed(dir.error("read", name, error)))?;
    if bytes.len() as u64 > max {
        return Err(unusable(format!("it has more than {max} bytes")));
    }
    Ok(bytes)
}

fn can_read(agents: Owner, stat: &Stat) -> bool {
    let mode = Mode::from_raw_mode(stat.st_mode);
    mode.contains(if stat.st_uid == agents.uid {
        Mode::RUSR
    } else if stat.st_gid == agents.gid {
        Mode::RGRP
    } else {
        Mode::ROTH
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn path(text: &str) -> ImagePath {
        let image = serde_json::json!({"turn_id": "t", "workspace": "a", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "x"}, {"type": "image", "source": {"type": "path", "path": text}}]}]});
        let image = image.to_string();
        let request = crate::request::TurnRequest::parse(
            image.as_bytes(),
            &crate::request::Limits::accepted(),
            &Default::default(),
        );
        match request.unwrap().images.remove(0) {
            crate::request::Image::Path { path } => path,
            other => panic!("{other:?}"),
        }
    }

    fn read_in(dir: &Path, name: &str, agents: Option<Owner>) -> Result<Vec<u8>, String> {
        let dir = Dir::open(dir).unwrap();
        read(&dir, &path(name), agents, 10).map_err(|error| error.to_string())
    }

    #[test]
    fn g8_an_image_is_only_a_file_inside_the_workspace() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        fs::create_dir_all(at("shots/old")).unwrap();
        fs::write(at("shots/old/a.png"), "0123456789").unwrap();
        fs::write(at("large"), "0123456789a").unwrap();
        symlink(outside.path(), at("away")).unwrap();
        symlink(outside.path().join("secret"), at("link")).unwrap();
        symlink("shots", at("inside")).unwrap();
        let pipe = Dir::open(tmp.path()).unwrap();
        rustix::fs::mkfifoat(&pipe, "pipe", Mode::RUSR).unwrap();
        let image = read_in(tmp.path(), "shots/old/a.png", None);
        assert_eq!(image.unwrap(), b"0123456789");
        for (name, why) in [
            ("away/secret", "away is a symbolic link, not a directory"),
            (
                "inside/old/a.png",
                "inside is a symbolic link, not a directory",
            ),
            ("link", "it is a symbolic link, not a file"),
            ("shots", "it is a directory, not a file"),
            ("pipe", "it is a named pipe, not a file"),
            ("large/a.png", "large is a file, not a directory"),
            ("large", "it has more than 10 bytes"),
            ("none/a.png", "there is no such file"),
            ("shots/none", "there is no such file"),
        ] {
            let error = read_in(tmp.path(), name, None).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn g8_what_agents_may_not_read_is_not_read_for_them() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("a.png");
        fs::write(&file, "secret").unwrap();
        let agents = Owner {
            uid: 4_000_001,
            gid: 4_000_001,
        };
        for (mode, readable) in [(0o600, false), (0o640, false), (0o604, true)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_in(tmp.path(), "a.png", Some(agents));
            assert_eq!(read.is_ok(), readable, "{mode:o}: {read:?}");
        }
    }
}
