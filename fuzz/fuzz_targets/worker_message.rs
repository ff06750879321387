//! cargo fuzz run -s none worker_message
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    jarvis_secretsd::testing::is_worker_message(bytes);
    jarvis_secretsd::testing::is_runner_message(bytes);
});
