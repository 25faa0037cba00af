//! Any text as a chat template: it renders, or it says why not, in bounded time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use switchback::model::SpecialTokenText;
use switchback::prompt::{ChatTemplate, GenerationPrompt};

fuzz_target!(|source: &str| {
    if let Ok(template) = ChatTemplate::compile(source, &SpecialTokenText::default()) {
        let messages = [serde_json::json!({ "role": "user", "content": "Where is my tent?" })];
        let _ = template.render(&messages, &serde_json::Map::new(), GenerationPrompt::Add);
    }
});
