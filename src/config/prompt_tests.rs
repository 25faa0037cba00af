//! Prompt files as authors write them, well and badly.

use std::path::Path;

use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::json;

use super::sampling::TopK;
use super::*;

fn read(text: &str) -> Result<PromptSpec, ConfigErrors> {
    parse_prompt(text, Path::new("v7.md"))
}

fn errors(text: &str) -> String {
    read(text).expect_err("the prompt was taken").to_string()
}

const GOOD: &str = r#"---
description: Support desk
variables:
  shop: string
  tone: { type: string, default: friendly, description: How to sound }
  limit: { type: number, default: 2.5 }
  strict: { type: boolean, required: false, default: true }
  topics: { type: list, default: [orders, 3, false] }
  customer: { type: string, required: true }
temperature: 0
top_p: 0.9
top_k: -1
min_p: 0.1
repetition_penalty: 1.1
presence_penalty: -0.5
frequency_penalty: 2
max_tokens: 96
stop: ["\n\n", END]
examples:
  - { user: "Where is my tent?", assistant: "On its way." }
---
You answer for {{ shop }}.
---
"#;

#[test]
fn a_full_prompt_is_read_as_it_is_written() {
    let spec = read(GOOD).unwrap();
    assert_eq!(spec.description.as_deref(), Some("Support desk"));
    let variable = |name: &str| (spec.variables[name].kind, spec.variables[name].default.clone());
    assert_eq!(variable("shop"), (VariableKind::String, None));
    assert_eq!(variable("customer"), (VariableKind::String, None));
    assert_eq!(variable("tone"), (VariableKind::String, Some(json!("friendly"))));
    assert_eq!(variable("limit"), (VariableKind::Number, Some(json!(2.5))));
    assert_eq!(variable("strict"), (VariableKind::Boolean, Some(json!(true))));
    assert_eq!(variable("topics"), (VariableKind::List, Some(json!(["orders", 3, false]))));
    let sampling = PromptSampling {
        temperature: Some(0.0),
        top_p: Some(0.9),
        top_k: Some(TopK::All),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
        presence_penalty: Some(-0.5),
        frequency_penalty: Some(2.0),
        max_tokens: std::num::NonZeroUsize::new(96),
        stop: Some(vec!["\n\n".into(), "END".into()]),
    };
    assert_eq!(spec.sampling, sampling);
    assert_eq!(
        spec.examples,
        [Example { user: "Where is my tent?".into(), assistant: "On its way.".into() }]
    );
    assert_eq!((spec.body.as_str(), spec.body_line), ("You answer for {{ shop }}.\n---\n", 22));
}

#[test]
fn a_file_without_front_matter_is_all_template() {
    let spec = read("Be kind.\n\n---\nAlways.\n").unwrap();
    assert_eq!((spec.body.as_str(), spec.body_line), ("Be kind.\n\n---\nAlways.\n", 1));
    assert!(spec.variables.is_empty() && spec.examples.is_empty());
}

#[test]
fn how_an_editor_ends_lines_makes_no_other_prompt() {
    let dos = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    assert_eq!(read(&dos).unwrap(), read(GOOD).unwrap());
}

#[test]
fn every_mistake_has_its_line_and_a_fix() {
    assert_snapshot!(errors(
        r#"---
response_format: { type: json_object }
config: { temperature: 1 }
tools: []
model: gpt-4o
temprature: 1
temperature: 3
top_p: 0
top_k: 1.5
max_tokens: 0
stop: ["", 7]
variables:
  1st: string
  loop: string
  a: text
  b: { default: x }
  c: { type: number, default: "3" }
  d: { type: string, default: 1.10 }
  e: { type: boolean, required: true, default: true }
  f: { type: list, required: false }
  g: { type: list, default: [[1]] }
  h: { type: string, default: null }
  i: [string]
  a: string
  j: { type: string, defualt: x }
examples:
  - { user: hello }
  - { user: hello, assistant: "" }
  - { user: hello, system: x, assistant: y }
  - hello
---
Hello.
"#
    ));
    assert_snapshot!(errors("---\nvariables: [a]\nexamples: { user: a }\nstop: 5\n---\n"), @r#"
    v7.md:2: variables: found a list with 1 items; write a mapping of `key: value` lines
    v7.md:3: examples: found a mapping with 1 keys; write a list: `- { user: "Where is my tent?", assistant: "On its way." }`
    v7.md:4: stop: found the number 5; write a text, in quotes
    "#);
}

#[test]
fn front_matter_that_is_none_says_so() {
    assert_snapshot!(errors("---\ntemperature: 0\nHello.\n"), @"v7.md:1: front matter opens here and nothing closes it; end it with a line of `---`; if none was meant, begin with another line");
    assert_snapshot!(errors("---\na: b: c\n---\nHello.\n"), @"v7.md:2: the file is not readable YAML: mapping values are not allowed in this context at line 2, column 5; check the indentation, the colons and the quotes near this line");
    assert_snapshot!(errors("---\njust a text\n---\nHello.\n"), @r#"v7.md:2: found "just a text"; write a mapping of `key: value` lines"#);
    assert_snapshot!(errors("---\ndescription: x\n---\n \n"), @"v7.md:4: the prompt says nothing; write the system text below the front matter");
    assert_snapshot!(errors(""), @"v7.md:1: the prompt says nothing; write the system text below the front matter");
    assert!(read("---\nmax_tokens: 24\n---\n").is_ok(), "a prompt may be all parameters");
    assert!(read("---\n---\nHello.").is_ok());
}

#[test]
fn more_than_any_prompt_needs_is_refused() {
    let many = |n: usize, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<String>();
    let variables = format!("---\nvariables:\n{}---\nHello.", many(65, &|i| format!("  v{i}: string\n")));
    assert!(errors(&variables).contains("65 variables; keep to 64"));
    let examples =
        format!("---\nexamples:\n{}---\n", many(65, &|_| "  - { user: a, assistant: b }\n".into()));
    assert!(errors(&examples).contains("65 examples; keep to 64"));
    let stops = format!("---\nstop: [{}]\n---\nHello.", many(17, &|i| format!("s{i}, ")));
    assert!(errors(&stops).contains("17 stop texts; keep to 16"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "(---\n)?.{0,100}(\n---\n)?.{0,100}") {
        let _ = read(&text);
    }

    #[test]
    fn no_damage_to_a_good_prompt_panics(cut in 0..GOOD.len(), len in 0_usize..40, put in "[ -~\n]{0,12}") {
        let end = (cut + len).min(GOOD.len());
        if let Err(e) = read(&format!("{}{put}{}", &GOOD[..cut], &GOOD[end..])) {
            prop_assert!(!e.errors.is_empty());
            prop_assert!(e.errors.iter().all(|e| !e.fix.is_empty()));
        }
    }

    #[test]
    fn every_number_in_its_range_is_taken_and_no_other(temperature in -5.0_f64..5.0) {
        let read = read(&format!("---\ntemperature: {temperature}\n---\nHello."));
        prop_assert_eq!(read.is_ok(), sampling::TEMPERATURE.contains(&temperature));
    }
}
