//! The command line.

fn main() -> std::process::ExitCode {
    jarvis_secretsd::ctl::main()
}
