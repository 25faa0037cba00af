//! Any text as `switchback.yaml`: an error with a line, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = switchback::config::parse(text, Path::new("switchback.yaml"), &|_| None);
});
