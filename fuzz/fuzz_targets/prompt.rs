//! Any bytes as a prompt file: it is put around a conversation, or it says why not, in bounded time.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchback::prompt::Prompt;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(prompt) = Prompt::parse(bytes, Path::new("prompt.md")) {
        let messages = [serde_json::json!({ "role": "user", "content": "Where is my tent?" })];
        let _ = prompt.wrap(&messages, &serde_json::Map::new());
    }
});
