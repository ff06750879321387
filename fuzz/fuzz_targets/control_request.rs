//! cargo fuzz run -s none control_request
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    jarvis_secretsd::testing::is_control_request(bytes);
});
