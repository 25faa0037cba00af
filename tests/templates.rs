//! Chat templates against Hugging Face's `apply_chat_template`: `reference/make_templates.py` writes what it makes of ours.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};
use switchback::model::SpecialTokenText;
use switchback::prompt::{ChatTemplate, GenerationPrompt, PromptError};

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<Value>,
    tools: Option<Value>,
    documents: Option<Value>,
    generation: bool,
    variables: Map<String, Value>,
    text: Option<String>,
    raises: Option<String>,
}

fn special() -> SpecialTokenText {
    SpecialTokenText {
        bos: Some("<s>".to_owned()),
        eos: Some("</s>".to_owned()),
        others: [("pad_token".to_owned(), "<pad>".to_owned())].into(),
    }
}

#[test]
fn conversations_read_as_transformers_renders_them() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates");
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let source = std::fs::read_to_string(folder.join(&case.template).with_extension("jinja")).unwrap();
        let template = ChatTemplate::compile(&source, &special()).unwrap();
        let mut variables = case.variables.clone();
        for (name, value) in [("tools", &case.tools), ("documents", &case.documents)] {
            variables.extend(value.clone().map(|value| (name.to_owned(), value)));
        }
        let generation = if case.generation { GenerationPrompt::Add } else { GenerationPrompt::Omit };
        let expected = match (&case.text, &case.raises) {
            (Some(text), _) => Ok(text.clone()),
            (None, raises) => Err(PromptError::Refused(raises.clone().unwrap())),
        };
        let found = template.render_blocking(&case.messages, &variables, generation);
        if found != expected {
            wrong.push(format!("case {i}, {}:\n{found:?}\nand not\n{expected:?}", case.template));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}
