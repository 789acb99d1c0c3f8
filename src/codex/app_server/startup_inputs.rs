//! What a server has taken in for good when it started.

use std::path::PathBuf;

use crate::codex::engine::TurnInput;
use crate::codex::identity::FileIdentity;
use crate::codex::process::Codex;

/// What codex reads of its own folder when it starts.
const OF_HOME: [&str; 4] = [
    "config.toml",
    "auth.json",
    "AGENTS.md",
    "AGENTS.override.md",
];
/// And of the workspace. The settings of folders above it are the operator's, and
/// reaches a server when it has waited too long.
const OF_WORKSPACE: [&str; 3] = ["AGENTS.md", "AGENTS.override.md", ".codex/config.toml"];

/// What a server can't change any more: one that has another serves no turn
/// that starts now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StartupInputs {
    /// Of the program.
    generation: u64,
    home: Option<PathBuf>,
    /// The directory's device and inode: another may have its path by now.
    dir: Option<(u64, u64)>,
    /// Settings, login and instructions, as they are on disk.
    files: Vec<FileIdentity>,
}

impl StartupInputs {
    pub(super) fn of(codex: &Codex, input: &TurnInput<'_>) -> Self {
        let dir = rustix::fs::fstat(input.dir).ok();
        let of_home = input
            .home
            .path()
            .map(|home| OF_HOME.map(|file| home.join(file)));
        let of_workspace = OF_WORKSPACE.map(|file| input.dir_path.join(file));
        let files = of_home.into_iter().flatten().chain(of_workspace);
        Self {
            generation: codex.program.generation(),
            home: input.home.own().map(PathBuf::from),
            dir: dir.map(|dir| (dir.st_dev, dir.st_ino)),
            files: files.filter_map(|file| FileIdentity::of(&file)).collect(),
        }
    }
}
