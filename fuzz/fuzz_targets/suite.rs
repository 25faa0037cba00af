//! Any text as a regression suite: it is read, or it says why not, in bounded time.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::config::suite::parse_suite;
use switchback::quality::suite::unsupported;

fuzz_target!(|text: &str| {
    if let Ok(suite) = parse_suite(text, Path::new("nowhere/suite.yaml")) {
        let _ = unsupported(&suite);
    }
});
