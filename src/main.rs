//! The daemon.

fn main() -> std::process::ExitCode {
    jarvis_secretsd::daemon::main()
}
