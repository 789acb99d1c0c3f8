//! The command line. Everything that it does is in the library.

#![warn(unreachable_pub)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "faults")]
    let _faults = turn_worker::fault::setup();
    // The broker's URL is in our environment, with any command.
    let _ = turn_worker::guard::hide();
    // Before anything else: a guard has no use for a runtime, settings or logs.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == turn_worker::guard::GUARD_ARG)
    {
        return turn_worker::guard::guard_main();
    }
    cli::main()
}
