use std::path::Path;

use super::*;
use crate::engine::{Constraint, Grammar, GrammarCompiler};
use crate::model::{SpecialTokens, Tokenizer};

const FORMATS: [ToolFormat; 4] =
    [ToolFormat::Hermes, ToolFormat::Llama3Json, ToolFormat::Mistral, ToolFormat::MistralArgs];

fn tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/v1");
    Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap()
}

fn tools() -> Vec<Tool> {
    let tree = json!({"type": "object", "additionalProperties": false, "required": ["child"], "$defs": {
            "node": {"type": ["integer", "null"]}},
        "properties": {"child": {"anyOf": [{"$ref": "#/$defs/node"}, {"$ref": "#"}]}}});
    let weather = json!({"additionalProperties": false, "required": ["city"],
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let tool = |name: &str, parameters| Tool { name: name.to_owned(), parameters };
    vec![tool("weather", weather), tool("tree", tree)]
}

fn constraint(format: ToolFormat, which: Calls<'_>) -> Constraint {
    let compiler = GrammarCompiler::new(&tokenizer(), 1024, &[2]).unwrap();
    let offered = Offered { tools: &tools(), strict: &[] };
    let lark = calls(format, &offered, which, &|_| None).unwrap();
    compiler.compile(Grammar::from_lark(lark)).unwrap()
}

/// Whether a text is an answer of a grammar.
fn is_answer(constraint: &Constraint, text: &str) -> bool {
    constraint.accepts(&tokenizer().encode(text, SpecialTokens::Parse).unwrap())
}

const OSLO: &str = "{\"city\": \"Oslo\", \"days\": 2}";
const NESTED: &str = "{\"child\":{\"child\":{\"child\":3}}}";

/// A call as the format has it, from its name on, without its end.
fn called(format: ToolFormat, name: &str, arguments: &str) -> String {
    format!("{name}{}{arguments}", format.shape().before_arguments)
}

#[test]
fn a_call_that_is_begun_goes_on_as_its_format_and_its_tool_have_it() {
    for format in FORMATS {
        let CallShape { joint, end, .. } = format.shape();
        let (one, two) = (called(format, "weather", OSLO), called(format, "tree", NESTED));
        let begun = |several| constraint(format, Calls::Begun(Forced::Any, several));
        let (single, several) = (begun(Several::No), begun(Several::Yes));
        for (text, by_single, by_several) in [
            (format!("{one}{end}"), true, true),
            (format!("{two}{end}"), true, true),
            (format!("{one}{joint}{two}{end}"), false, true),
            (format!("{}{end}", called(format, "wether", OSLO)), false, false),
            (format!("{}{end}", called(format, "weather", NESTED)), false, false),
            (format!("{}{end}", called(format, "weather", "{\"city\": 3}")), false, false),
            (format!("{}{end}", called(format, "weather", "3")), false, false),
            (format!("{one}{end} and more"), false, false),
        ] {
            let found: (bool, bool) = (is_answer(&single, &text), is_answer(&several, &text));
            assert_eq!(found, (by_single, by_several), "{format:?}: {text}");
        }
        let named = constraint(format, Calls::Begun(Forced::Named("weather"), Several::No));
        let space = if format.shape().before_arguments.ends_with(' ') { " " } else { "" };
        assert!(is_answer(&named, &format!("{space}{OSLO}{end}")), "{format:?}");
        assert!(!is_answer(&named, &format!("{space}{NESTED}{end}")), "{format:?}");
    }
}

#[test]
fn text_is_free_until_a_call_begins() {
    for format in FORMATS {
        let CallShape { before_name, joint, end, .. } = format.shape();
        let free = constraint(format, Calls::Free);
        let call = format!("{before_name}{}{end}", called(format, "weather", OSLO));
        let two = format!(
            "{before_name}{}{joint}{}{end}",
            called(format, "weather", OSLO),
            called(format, "tree", NESTED)
        );
        for text in ["Just text, with <tags> and {\"json\": 1}.", &call, &two] {
            assert!(is_answer(&free, text), "{format:?}: {text}");
        }
        for text in [call.replace("Oslo\"", "Oslo\", \"more\": \"x\""), call.replace("weather", "wether")] {
            assert!(!is_answer(&free, &text), "{format:?}: {text}");
        }
        if format.call_mark().is_some() {
            assert!(is_answer(&free, &format!("Let me see.\n{call}")), "{format:?}");
        }
    }
}

#[test]
fn marks_that_are_tokens_of_their_own_are_written_as_such() {
    let special = |mark: &str| (mark == "</tool_call>").then_some(7);
    let written = Written { format: ToolFormat::Hermes, special: &special };
    assert_eq!(written.of("}\n</tool_call>\n<tool_call>"), "\"}\\n\" <[7]> \"\\n<tool_call>\"");
    assert_eq!(written.of("</tool_call>"), "<[7]>");
    assert_eq!(written.of(""), "");
}

#[test]
fn what_cannot_be_kept_to_is_refused_of_a_strict_tool_and_any_object_of_another() {
    let tools =
        [Tool { name: "odd".into(), parameters: json!({"type": "object", "not": {"required": ["a"]}}) }];
    let of = |strict: &[String]| {
        let offered = Offered { tools: &tools, strict };
        calls(ToolFormat::Hermes, &offered, Calls::Begun(Forced::Any, Several::No), &|_| None)
    };
    let error = of(&["odd".to_owned()]).unwrap_err();
    assert!(error.starts_with("`odd`: ") && error.contains("`not`"), "{error}");
    let lark = of(&[]).unwrap();
    assert!(lark.contains("arguments_0: %json {\"type\":\"object\",\"x-guidance\""), "{lark}");
}
