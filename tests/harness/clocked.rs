//! The daemon with clocks that tests can set: they are ahead by the milliseconds in the
//! file `clock` beside the program, the system's by the first number, the time since
//! boot by the second.

fn main() -> std::process::ExitCode {
    let beside = std::env::current_exe().map(|program| program.with_file_name("clock"));
    if let Ok(file) = beside.and_then(std::fs::File::open) {
        jarvis_secretsd::testing::follow_clock(file);
    }
    jarvis_secretsd::daemon::main()
}
