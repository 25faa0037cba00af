//! Any schema, pattern or grammar: it compiles for the demo's vocabulary, or it says why not, in bounded time.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use switchback::engine::GrammarCompiler;
use switchback::gateway::{Shape, Structure};
use switchback::model::Tokenizer;

/// As the server gives a compiler.
const STACK: usize = 256 << 20;

static COMPILER: LazyLock<GrammarCompiler> = LazyLock::new(|| {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/v1/tokenizer.json");
    let tokenizer = Tokenizer::from_file(&file).expect("the demo is there");
    GrammarCompiler::new(&tokenizer, tokenizer.vocab_size(), &[2]).expect("it can be constrained")
});

fuzz_target!(|input: (u8, &str)| {
    let (kind, text) = input;
    let shape = match kind % 4 {
        0 => match serde_json::from_str(text) {
            Ok(schema) => Shape::JsonSchema(schema),
            Err(_) => return,
        },
        1 => Shape::Regex(text.to_owned()),
        2 => Shape::Choice(text.lines().map(str::to_owned).collect()),
        _ => Shape::Lark(text.to_owned()),
    };
    let Ok(structure) = Structure::new("fuzzed", shape, None) else { return };
    let compile = move || structure.grammar().map(|grammar| COMPILER.compile(grammar).is_ok());
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(compile).expect("a thread");
    let _ = thread.join().expect("compiling does not panic");
});
