//! Finding codex's native binary.
//!
//! What npm puts on the PATH is a Node script that runs the native binary as
//! its child: a signal meant for codex would reach the script alone, and each
//! turn would pay for Node's start. The package carries the binary itself:
//! `@openai/codex-<platform>/vendor/<target>/bin/codex`, either below the
//! package or beside it, depending on how the package manager lays it out.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error("no executable {name:?} in PATH ({path})")]
    NotInPath { name: String, path: String },
    #[error("{path} is no executable file")]
    NotExecutable { path: PathBuf },
    #[error(
        "{script} is a script, and no native binary {package}/vendor/{target}/bin/codex was found for it; \
         name the native binary itself"
    )]
    NoNative {
        script: PathBuf,
        package: &'static str,
        target: &'static str,
    },
}

#[cfg(target_arch = "x86_64")]
const PLATFORM: (&str, &str) = ("codex-linux-x64", "x86_64-unknown-linux-musl");
#[cfg(target_arch = "aarch64")]
const PLATFORM: (&str, &str) = ("codex-linux-arm64", "aarch64-unknown-linux-musl");

/// The program to run for a `CODEX_BIN` of `name`: looked up in `path` when
/// it holds no slash, and followed behind npm's script.
pub(crate) fn resolve(name: &str, path: &OsStr) -> Result<PathBuf, BinaryError> {
    let found = if name.contains('/') {
        PathBuf::from(name)
    } else {
        std::env::split_paths(path)
            .map(|folder| folder.join(name))
            .find(|candidate| is_executable(candidate))
            .ok_or_else(|| BinaryError::NotInPath {
                name: name.to_owned(),
                path: path.to_string_lossy().into_owned(),
            })?
    };
    let real = found
        .canonicalize()
        .ok()
        .filter(|real| is_executable(real))
        .ok_or(BinaryError::NotExecutable { path: found })?;
    if !is_npm_script(&real) {
        return Ok(real);
    }
    native_behind(&real).ok_or(BinaryError::NoNative {
        script: real,
        package: PLATFORM.0,
        target: PLATFORM.1,
    })
}

fn native_behind(script: &Path) -> Option<PathBuf> {
    let (platform, target) = PLATFORM;
    let binary = Path::new("vendor").join(target).join("bin/codex");
    let package = script.parent()?.parent()?;
    // As Node resolves a dependency: below the package, then in each folder above it.
    package
        .ancestors()
        .map(|folder| {
            folder
                .join("node_modules/@openai")
                .join(platform)
                .join(&binary)
        })
        .chain([package.join(&binary)])
        .find(|candidate| is_executable(candidate))
}

/// Other scripts (a wrapper of the operator's) are run as they are.
fn is_npm_script(path: &Path) -> bool {
    let mut start = [0; 64];
    // It may have been swapped since it was looked at: opening a pipe would wait for ever.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let read = rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .ok()
        .filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))
        .and_then(|mut file| file.read(&mut start).ok())
        .unwrap_or(0);
    let first_line = start[..read].split(|&byte| byte == b'\n').next();
    first_line
        .is_some_and(|line| line.starts_with(b"#!") && line.windows(4).any(|word| word == b"node"))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn executable(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn follows_npms_script_to_the_native_binary_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().canonicalize().unwrap().join("node_modules");
        let script = modules.join("@openai/codex/bin/codex.js");
        executable(&script, "#!/usr/bin/env node\n");
        let native = modules
            .join("@openai")
            .join(PLATFORM.0)
            .join("vendor")
            .join(PLATFORM.1)
            .join("bin/codex");
        let bin = modules.join(".bin");
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(&script, bin.join("codex")).unwrap();

        let missing = resolve("codex", bin.as_os_str()).unwrap_err();
        assert!(matches!(missing, BinaryError::NoNative { .. }), "{missing}");

        executable(&native, "\x7fELF");
        assert_eq!(resolve("codex", bin.as_os_str()).unwrap(), native);
    }

    #[test]
    fn g8_a_pipe_in_a_scripts_place_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("codex");
        let (told, hear) = std::sync::mpsc::channel();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RWXU).unwrap();
        std::thread::spawn(move || told.send(is_npm_script(&pipe)));
        let answer = hear.recv_timeout(std::time::Duration::from_secs(600));
        assert_eq!(answer, Ok(false));
    }

    #[test]
    fn runs_other_programs_as_they_are_and_names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().canonicalize().unwrap().join("codex");
        executable(&program, "#!/bin/sh\n");
        assert_eq!(resolve("codex", dir.path().as_os_str()).unwrap(), program);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            resolve("codex", dir.path().as_os_str()),
            Err(BinaryError::NotInPath { .. })
        ));
        assert!(matches!(
            resolve(program.to_str().unwrap(), OsStr::new("")),
            Err(BinaryError::NotExecutable { .. })
        ));
    }
}
