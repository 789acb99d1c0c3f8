//! Faults that tests ask for: places where a process dies, freezes, meets a
//! full disk, or leaves out what it should do. Built with the feature `faults`
//! only; without it, all of this is compiled out, as in an operator's build.
//!
//! `FAILPOINTS` says what happens where, in the words of the crate `fail`:
//! `turn.started=return(kill)` kills the process as soon as it has recorded a
//! start, `turn.started=2*off->1*return(stop)` freezes it at the third.
//! `disk.write=return(full-while:/x)` fills the disk for as long as there is a
//! file `/x`, which a test makes and removes while the process runs.

#[cfg(feature = "faults")]
pub use with_faults::{at, death_of, disk, environment, is_on, lock, process, setup};
#[cfg(not(feature = "faults"))]
pub use without_faults::{at, death_of, disk, environment, is_on, lock, process};

#[cfg(feature = "faults")]
mod with_faults {
    use std::ffi::OsString;
    use std::io;
    use std::path::Path;
    use std::time::Duration;

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    /// Reads `FAILPOINTS`; once for a process, which keeps what this gives.
    pub fn setup() -> impl Sized {
        fail::FailScenario::setup()
    }

    /// A place where a test lets the process die (`return(kill)`) or freeze
    /// (`return(stop)`), the task panic (`return(panic)`), or be slow (`sleep(MS)`).
    pub fn at(place: &str) {
        let signal = match asked(place).as_deref() {
            None => return,
            Some("kill") => Signal::KILL,
            Some("stop") => Signal::STOP,
            Some("panic") => panic!("a test wants a panic at {place}"),
            Some(other) => panic!("{place}={other}: expected kill, stop or panic"),
        };
        // It can't fail: a process may always end itself.
        let _ = kill_process(getpid(), signal);
    }

    /// Panics in a part of the process as soon as a file is there:
    /// `return(NAME:/x)` for the part of that name. Never completes.
    pub async fn death_of(place: &str, part: &str) {
        const LOOK: Duration = Duration::from_millis(20);
        let Some(asked) = asked(place) else {
            return std::future::pending().await;
        };
        let Some((_, file)) = asked.split_once(':').filter(|(name, _)| *name == part) else {
            return std::future::pending().await;
        };
        while !Path::new(file).exists() {
            tokio::time::sleep(LOOK).await;
        }
        panic!("a test wants the part {part} to die");
    }

    /// A use of the disk, which a test lets fail: `return(full)`.
    pub fn disk(place: &str) -> io::Result<()> {
        fails(place, "full", Errno::NOSPC)
    }

    /// The start of a process, for which a test leaves no room: `return(none)`.
    pub fn process(place: &str) -> io::Result<()> {
        fails(place, "none", Errno::AGAIN)
    }

    /// A look at a lock, which a test lets hang (`return(hang-while:/x)`) or fail
    /// (`return(lost-while:/x)`), for as long as there is a file `/x`.
    pub fn lock(place: &str) -> Result<(), Errno> {
        const LOOK: Duration = Duration::from_millis(20);
        let Some(asked) = asked(place) else {
            return Ok(());
        };
        match asked.split_once("-while:") {
            Some(("lost", file)) if Path::new(file).exists() => Err(Errno::BADFD),
            Some(("lost", _)) => Ok(()),
            Some(("hang", file)) => {
                while Path::new(file).exists() {
                    std::thread::sleep(LOOK);
                }
                Ok(())
            }
            _ => panic!("{place}={asked}: expected hang-while:FILE or lost-while:FILE"),
        }
    }

    fn fails(place: &str, what: &str, errno: Errno) -> io::Result<()> {
        let Some(asked) = asked(place) else {
            return Ok(());
        };
        let file = match asked.split_once("-while:") {
            Some((happens, file)) if happens == what => Some(file),
            None if asked == what => None,
            _ => panic!("{place}={asked}: {what} is all that can happen here"),
        };
        match file.is_none_or(|file| Path::new(file).exists()) {
            true => Err(errno.into()),
            false => Ok(()),
        }
    }

    /// Whether a test wants something left out: `return`.
    pub fn is_on(place: &str) -> bool {
        asked(place).is_some()
    }

    /// What a guard needs in its environment to meet the same faults.
    pub fn environment() -> Option<(&'static str, OsString)> {
        const NAME: &str = "FAILPOINTS";
        std::env::var_os(NAME).map(|value| (NAME, value))
    }

    fn asked(place: &str) -> Option<String> {
        fail::fail_point!(place, |what: Option<String>| Some(what.unwrap_or_default()));
        None
    }
}

#[cfg(not(feature = "faults"))]
mod without_faults {
    use std::ffi::OsString;
    use std::io;

    use rustix::io::Errno;

    #[inline]
    pub fn at(_place: &str) {}

    #[inline]
    pub async fn death_of(_place: &str, _part: &str) {
        std::future::pending().await
    }

    #[inline]
    pub fn disk(_place: &str) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    pub fn process(_place: &str) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    pub fn lock(_place: &str) -> Result<(), Errno> {
        Ok(())
    }

    #[inline]
    pub fn is_on(_place: &str) -> bool {
        false
    }

    #[inline]
    pub fn environment() -> Option<(&'static str, OsString)> {
        None
    }
}
