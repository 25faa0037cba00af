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
    let offered = Offered { tools: &tools(), strict: &[], others: Others::Kept };
    let lark = calls(format, &offered, which, &|_| None).unwrap();
    compiler.compile(Grammar::from_lark(lark)).unwrap()
}

/// The tokens of a text in which some marks are tokens of their own: those that end and begin the tokenizer's texts stand for
/// them.
fn with_marks(text: &str, marks: &[(&str, u32)]) -> Vec<u32> {
    let encode = |text: &str| tokenizer().encode(text, SpecialTokens::Parse).unwrap();
    let next = marks.iter().filter_map(|(mark, token)| Some((text.find(mark)?, *mark, *token))).min();
    match next {
        None => encode(text),
        Some((at, mark, token)) => {
            let mut tokens = encode(&text[..at]);
            tokens.push(token);
            tokens.extend(with_marks(&text[at + mark.len()..], marks));
            tokens
        }
    }
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
        let (single, several) = (begun(MostCalls::One), begun(MostCalls::Any));
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
        let named = constraint(format, Calls::Begun(Forced::Named("weather"), MostCalls::One));
        let space = if format.shape().before_arguments.ends_with(' ') { " " } else { "" };
        assert!(is_answer(&named, &format!("{space}{OSLO}{end}")), "{format:?}");
        assert!(!is_answer(&named, &format!("{space}{NESTED}{end}")), "{format:?}");
    }
}

#[test]
fn text_is_free_until_a_call_begins() {
    for format in FORMATS {
        let CallShape { before_name, joint, end, .. } = format.shape();
        let free = constraint(format, Calls::Free(MostCalls::Any, None));
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
    let marks = Marks { format: ToolFormat::Hermes, special: &special };
    assert_eq!(marks.written("}\n</tool_call>\n<tool_call>"), "\"}\\n\" <[7]> \"\\n<tool_call>\"");
    assert_eq!(marks.written("</tool_call>"), "<[7]>");
    assert_eq!(marks.written(""), "");
}

#[test]
fn what_cannot_be_kept_to_is_refused_of_a_strict_tool_and_any_object_of_another() {
    let tools =
        [Tool { name: "odd".into(), parameters: json!({"type": "object", "not": {"required": ["a"]}}) }];
    let of = |strict: &[String]| {
        let offered = Offered { tools: &tools, strict, others: Others::Kept };
        calls(ToolFormat::Hermes, &offered, Calls::Begun(Forced::Any, MostCalls::One), &|_| None)
    };
    let error = of(&["odd".to_owned()]).unwrap_err();
    assert!(error.starts_with("`odd`: ") && error.contains("`not`"), "{error}");
    let lark = of(&[]).unwrap();
    assert!(lark.contains("arguments_0: %json {\"type\":\"object\",\"x-guidance\""), "{lark}");
}

#[test]
fn marks_of_their_own_begin_calls_and_end_thoughts() {
    let tokenizer = tokenizer();
    let specials: Vec<u32> = (0..1024).filter(|token| *token != 2 && tokenizer.is_special(*token)).collect();
    let compiler = GrammarCompiler::new(&tokenizer, 1024, &[2]).unwrap();
    let offered = Offered { tools: &tools(), strict: &[], others: Others::Kept };
    for (format, mark) in [(ToolFormat::Hermes, "<tool_call>"), (ToolFormat::Mistral, "[TOOL_CALLS]")] {
        let CallShape { before_name, end, .. } = format.shape();
        let marks = [(mark, specials[0]), ("</think>", specials[1])];
        let special = |text: &str| marks.iter().find(|(mark, _)| *mark == text).map(|(_, token)| *token);
        let call = format!("{before_name}{}{end}", called(format, "weather", OSLO));
        let wrong = call.replace("weather", "wether");
        for (thought, text, is_one) in [
            (None, format!("I look. {call}"), true),
            (None, call.clone(), true),
            (None, "Only text.".to_owned(), true),
            (None, wrong.clone(), false),
            (Some(Thought::Begun), format!("I think</think>I look. {call}"), true),
            (Some(Thought::Begun), format!("I think</think>{wrong}"), false),
            (Some(Thought::Begun), "I think and never end".to_owned(), false),
            (Some(Thought::Perhaps), format!("<think>I think</think>{call}"), true),
            (Some(Thought::Perhaps), format!("I look. {call}"), true),
        ] {
            let lark = calls(format, &offered, Calls::Free(MostCalls::Any, thought), &special).unwrap();
            let constraint = compiler.compile(Grammar::from_lark(lark.clone())).unwrap();
            assert_eq!(
                constraint.accepts(&with_marks(&text, &marks)),
                is_one,
                "{format:?} {thought:?}: {text}\n{lark}"
            );
        }
    }
}

#[test]
fn a_thought_that_is_spelled_hides_no_call() {
    for format in [ToolFormat::Hermes, ToolFormat::Llama3Json] {
        let CallShape { before_name, end, .. } = format.shape();
        let free = constraint(format, Calls::Free(MostCalls::One, Some(Thought::Perhaps)));
        let call = format!("{before_name}{}{end}", called(format, "weather", OSLO));
        assert!(is_answer(&free, &format!("<think>hm</think>{call}")), "{format:?}");
        assert!(is_answer(&free, "<think>hm</think>Hello."), "{format:?}");
        assert!(is_answer(&free, "Hello."), "{format:?}");
        assert!(
            !is_answer(&free, &format!("<think>hm</think>{}", call.replace("Oslo\"", "Oslo\", \"x\": 1"))),
            "{format:?}"
        );
    }
}

#[test]
fn arguments_are_an_object_whatever_the_schema_leaves_open() {
    let of = |parameters: Json, strict: &[String]| {
        let tools = [Tool { name: "f".into(), parameters }];
        let offered = Offered { tools: &tools, strict, others: Others::Kept };
        calls(ToolFormat::Hermes, &offered, Calls::Begun(Forced::Any, MostCalls::One), &|_| None)
    };
    assert!(of(json!({}), &[]).unwrap().contains("{\"type\":\"object\""));
    let refused = of(json!({"type": "string"}), &["f".to_owned()]).unwrap_err();
    assert!(refused.contains("`f`: `type` is \"string\""), "{refused}");
    assert!(of(json!({"type": "string"}), &[]).unwrap().contains("{\"type\":\"object\""));
}
