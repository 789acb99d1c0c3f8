use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == turn_worker::guard::GUARD_ARG)
    {
        return turn_worker::guard::guard_main();
    }
    ExitCode::SUCCESS
}
