//! Prompts around conversations.

use std::path::Path;

use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;
use crate::ids::Digest;

fn read(text: &str) -> Result<Prompt, String> {
    Prompt::parse(text.as_bytes(), Path::new("v7.md")).map_err(|e| e.to_string())
}

fn refused(text: &str) -> String {
    read(text).expect_err("the prompt was taken")
}

fn given(variables: Json) -> Map<String, Json> {
    let Json::Object(variables) = variables else { panic!("variables must be an object") };
    variables
}

fn system(prompt: &Prompt, variables: Json) -> Result<String, String> {
    prompt.system_blocking(&given(variables)).map_err(|e| e.to_string())
}

const DESK: &str = "---\nvariables:\n  shop: string\n  topics: { type: list, default: [orders] }\nexamples:\n\
    \x20 - { user: \"{{ shop }}?\", assistant: A. }\n---\n\n{% for t in topics %}\n- {{ t }}\n{% endfor %}\n\
    You answer for {{ shop }}.\n";

#[test]
fn the_system_text_goes_first_then_the_examples_then_the_client() {
    let prompt = read(DESK).unwrap();
    let turns = [json!({"role": "user", "content": "hi"}), json!({"role": "assistant", "content": "yes?"})];
    let wrapped =
        prompt.wrap_blocking(&turns, &given(json!({"shop": "{{ topics }}", "topics": ["a", "b"]}))).unwrap();
    let wanted = [
        json!({"role": "system", "content": "- a\n- b\nYou answer for {{ topics }}."}),
        json!({"role": "user", "content": "{{ shop }}?"}),
        json!({"role": "assistant", "content": "A."}),
        turns[0].clone(),
        turns[1].clone(),
    ];
    assert_eq!(wrapped, wanted, "neither a value nor an example is a template");
}

#[test]
fn what_the_client_instructs_at_first_is_added_below_the_prompts_own_text() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let client = [
        turn("system", "Be brief."),
        turn("developer", "No jokes."),
        turn("user", "hi"),
        turn("system", "x"),
    ];
    let wrapped = read("Be kind.\n").unwrap().wrap_blocking(&client, &Map::new()).unwrap();
    let wanted =
        [turn("system", "Be kind.\n\nBe brief.\n\nNo jokes."), turn("user", "hi"), turn("system", "x")];
    assert_eq!(wrapped, wanted);

    let silent = read("---\nexamples: [{ user: a, assistant: b }]\n---\n").unwrap();
    let wrapped = silent.wrap_blocking(&client, &Map::new()).unwrap();
    let roles: Vec<_> = wrapped.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "developer", "user", "assistant", "user", "system"]);
}

#[test]
fn a_variable_that_is_missing_unknown_or_of_another_kind_is_named() {
    let prompt = read(DESK).unwrap();
    let faults = [
        json!({}),
        json!({"shop": "A", "shpo": "B"}),
        json!({"shop": 3}),
        json!({"shop": null}),
        json!({"shop": "A", "topics": "orders"}),
        json!({"shop": "A", "topics": [{"a": 1}]}),
    ];
    let told: Vec<_> = faults
        .into_iter()
        .map(|variables| match prompt.system_blocking(&given(variables)).unwrap_err() {
            WrapError::Variable { name, fault } => format!("{name}: {fault}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_snapshot!(told.join("\n"), @r"
    shop: the prompt needs this variable; give a string
    shpo: the prompt has no such variable; it has: shop, topics
    shop: the prompt takes a string here; found a number
    shop: the prompt takes a string here; found null
    topics: the prompt takes a list of strings, numbers and booleans here; found a string
    topics: the prompt takes a list of strings, numbers and booleans here; found a list of other things
    ");
}

#[test]
fn a_template_that_no_request_could_use_is_refused_with_its_line() {
    let front = "---\nvariables: { shop: string }\n---\n";
    assert_snapshot!(refused("Hello.\nThe shop: {{ shop }}."), @"v7.md:2: the template names `shop`, which is no variable; declare it in the front matter: `variables: { shop: string }`");
    assert_snapshot!(refused(&format!("{front}The tone of {{{{ shop }}}}\nis {{{{ tone }}}}.")), @"v7.md:5: the template names `tone`, which is no variable; declare it under `variables:`, where there are: shop");
    assert_snapshot!(refused(&format!("{front}a\n{{% if shop %}}b")), @"v7.md:5: syntax error: unexpected end of input, expected end of block (in prompt:5); mend the template");
    assert_snapshot!(refused(&format!("{front}a\n{{{{ shop | shout }}}}")), @"v7.md:5: unknown filter: filter shout is unknown (in prompt:5); mend the template");
    assert_snapshot!(refused(&format!("{front}a\n{{% include 'b.md' %}}")), @"v7.md:5: the template asks for another file; write all of it in this one");
    assert_snapshot!(refused("a\n{{ 'b' + 1 }}"), @"v7.md:2: invalid operation: tried to use + operator on unsupported types string and number (in prompt:2); mend the template");
    assert_snapshot!(refused("a\n{{ raise_exception('no') }}"), @"v7.md:2: the template refuses its own defaults: no; change the defaults, or what it raises");
    let loops = "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}";
    assert_snapshot!(refused(&format!("{front}a\n{loops}")), @"v7.md:5: the template was stopped: it does not finish within its bounds of work and memory; end its loops and shorten what it writes");
    assert_snapshot!(refused(&format!("a\n{loops}")), @"v7.md:2: the template was stopped: it does not finish within its bounds of work and memory; end its loops and shorten what it writes");
    assert_snapshot!(refused("a\n{{ 'x' * 100000000000 }}"), @"v7.md:2: the template was stopped: it does not finish within its bounds of work and memory; end its loops and shorten what it writes");
    assert_snapshot!(refused("{{ 'x' * 300000 }}"), @"v7.md:1: its text has 300000 bytes, more than the 262144 that it may have; shorten it");
    assert_snapshot!(Prompt::parse(b"a\xff", Path::new("v7.md")).unwrap_err(), @"v7.md: the file is not UTF-8: invalid utf-8 sequence of 1 bytes from index 1; save it as UTF-8");
}

#[test]
fn what_a_clients_values_make_of_a_template_is_the_requests_fault_and_bounded() {
    let front = "---\nvariables: { n: number, tone: { type: string, default: calm } }\n---\n";
    let repeats = read(&format!("{front}{{% for i in range(n) %}}xxxxxxxxxx{{% endfor %}}")).unwrap();
    assert_eq!(system(&repeats, json!({"n": 2})).unwrap().len(), 20);
    assert!(system(&repeats, json!({"n": 90_000})).unwrap_err().contains("bounds of work"));
    let long = read(&format!("{front}{{{{ tone }}}}")).unwrap();
    let tone = "x".repeat(300_000);
    let error = system(&long, json!({"n": 1, "tone": tone})).unwrap_err();
    assert!(error.contains("has 300000 bytes"), "{error}");
    let longer = read(&format!("{front}{{{{ tone * n }}}}")).unwrap();
    assert!(system(&longer, json!({"n": 1_000_000_000})).unwrap_err().contains("bounds of work"));
    let raises =
        "{% if tone not in ['calm', 'warm'] %}{{ raise_exception('calm or warm') }}{% endif %}{{ tone }}";
    let raises = read(&format!("{front}{raises}")).unwrap();
    let error = raises.system_blocking(&given(json!({"n": 1, "tone": "loud"}))).unwrap_err();
    assert_eq!(error, WrapError::Refused("calm or warm".into()));
}

#[test]
fn a_prompt_file_is_bounded_and_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v7.md");
    let told = |digest| match Prompt::read(&path, digest) {
        Ok(prompt) => prompt.digest().to_string(),
        Err(error) => error.to_string().replace(&folder.path().display().to_string(), "prompts"),
    };
    assert!(told(None).contains("cannot read the prompt prompts/v7.md"), "{}", told(None));
    std::fs::write(&path, "x".repeat((64 << 10) + 1)).unwrap();
    assert_snapshot!(told(None), @"the prompt prompts/v7.md is too large; name a file of at most 64 KiB");
    std::fs::write(&path, "Be kind.\n").unwrap();
    // as `sha256sum` prints it
    assert_snapshot!(told(None), @"sha256:f32bf5e09516390e83144b4a66afea2f104e1b229bc809baed4f8efb0f3a1d39");
    let other = Digest::from_bytes([7; 32]);
    assert_snapshot!(told(Some(other)).lines().next().unwrap(), @"the prompt prompts/v7.md is not the one that was asked for");
    assert!(matches!(Prompt::read(folder.path(), None), Err(PromptFileError::Unfit { .. })));
}

#[test]
fn every_byte_of_a_prompt_file_is_in_its_digest() {
    let [one, other] = ["Be kind.", "Be kind.\n"].map(|text| read(text).unwrap().digest());
    assert_ne!(one, other);
}

proptest! {
    #[test]
    fn any_template_renders_or_says_why_not(body in "[a{}% #'x.|()*0-9\n-]{0,60}") {
        if let Ok(prompt) = read(&format!("---\nvariables: {{ a: {{ type: string, default: b }} }}\n---\n{body}!")) {
            prop_assert!(prompt.system_blocking(&Map::new()).is_ok(), "it was tried out");
        }
    }
}
