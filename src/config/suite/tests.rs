use std::path::Path;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Suite, crate::config::ConfigErrors> {
    parse_suite(text, Path::new("s.yaml"))
}

#[test]
fn what_all_cases_have_in_common_is_in_each() {
    let suite = read(
        "prompts: '{{a}}'\ndefaultTest:\n  vars: { a: 1, b: 2 }\n  metadata: { tags: common }\n  options: { provider: judge@v1 }\n  \
         assert: [{ type: llm-rubric, value: kind }]\ntests:\n  - vars: { b: [x, y], c: [1, 2], d: [s, t], e: [] }\n    metadata: { tags: [own] }\n    \
         assert: [{ type: assert-set, assert: [{ type: factuality, value: f, provider: other@v2 }] }]\n  \
         - { vars: { b: [x, y] }, options: { disableVarExpansion: true } }\n",
    )
    .unwrap();
    let vars: Vec<String> =
        suite.cases.iter().map(|case| Json::Object(case.vars.clone()).to_string()).collect();
    assert_snapshot!(vars.join("\n"), @r###"
    {"a":1,"b":"x","c":[1,2],"d":"s","e":[]}
    {"a":1,"b":"x","c":[1,2],"d":"t","e":[]}
    {"a":1,"b":"y","c":[1,2],"d":"s","e":[]}
    {"a":1,"b":"y","c":[1,2],"d":"t","e":[]}
    {"a":1,"b":["x","y"]}
    "###);
    let first = &suite.cases[0];
    assert_eq!(first.tags, ["own", "common"]);
    assert_eq!(first.assertions[0].provider.as_deref(), Some("judge@v1"));
    assert_eq!(first.assertions[1].set[0].provider.as_deref(), Some("other@v2"));
}

#[test]
fn files_beside_the_suite_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("prompt.txt", "Say {{what}}\n");
    write("what.json", "{\"a\": [1]}");
    write("more.yaml", "- { vars: { what: file://text.txt }, assert: [{ type: equals, value: x }] }\n");
    write("text.txt", "a text\n");
    write(
        "suite.yaml",
        "prompts: [file://prompt.txt]\ntests:\n  - vars: { what: file://what.json }\n  - file://more.yaml\n",
    );
    let suite = read_suite(&folder.path().join("suite.yaml")).unwrap();
    assert_eq!(suite.prompts[0].template, "Say {{what}}\n");
    assert_eq!(suite.cases[0].vars["what"], serde_json::json!({"a": [1]}));
    assert_eq!(suite.cases[1].vars["what"], "a text");
    write("rubric.txt", "is it kind?");
    let asks = "prompts: [hi]\ntests: [{ assert: [{ type: llm-rubric, value: file://rubric.txt }] }]\n";
    write("asks.yaml", asks);
    let asks = read_suite(&folder.path().join("asks.yaml")).unwrap();
    assert_eq!(asks.cases[0].assertions[0].value, "is it kind?");
    write("again.yaml", "- file://again.yaml\n");
    write("round.yaml", "prompts: [prompt.txt]\ntests: file://again.yaml\n");
    let told = read_suite(&folder.path().join("round.yaml")).unwrap_err().to_string();
    assert!(told.contains("name all files in the suite itself"), "{told}");
    assert!(told.contains("write file://prompt.txt"), "{told}");
    write("more.yaml", "- { vars: {}, asserts: [] }\n");
    let told = read_suite(&folder.path().join("suite.yaml")).unwrap_err().to_string();
    assert!(told.contains("tests[1] (file://more.yaml)[0].asserts, line 1: unknown key"), "{told}");
}

#[test]
fn mistakes_are_told_with_line_and_fix() {
    let told = |text: &str| read(text).unwrap_err().to_string();
    let cases = [
        told("tests: []\n"),
        told("prompts: [a]\ntests: 3\nscenarios: [x]\ntest: y\n"),
        told("prompts: [a, { label: b }, file://nowhere]\ntests: [{ vars: { a: 1 }, transform: x }]\n"),
        told(
            "prompts: [a]\nproviders: [one]\ntests:\n  - assert: [{ type: contain }]\n  - assert: { type: contains }\n  \
             - assert: [{ value: a }, { type: not-assert-set }, { type: assert-set }]\n  \
             - { providers: two, assert: [{ type: equals, value: a, weight: -1, transform: x }] }\n  \
             - assert: [{ type: contains, value: a, min: 3 }, { type: equals, value: a, threshold: much }]\n",
        ),
        told("prompts: [a]\ntests:\n  - { providers: two }\n"),
        told(
            "prompts: [a, a]\nproviders: [{ id: x, prompts: [a] }, x]\nevaluateOptions: { repeat: 3 }\nenv: { A: b }\ntests: [{}]\n",
        ),
        told("prompts: [a\n"),
    ];
    assert_snapshot!(cases.join("\n\n"), @r###"
    s.yaml:1: tests: the suite has no case; add `tests:` with `vars` and `assert`

    s.yaml:2: tests: found the number 3; write a list of cases, or `file://cases.yaml`
    s.yaml:3: scenarios: it would change verdicts and is not done here; write each as cases of its own
    s.yaml:4: test: unknown key; did you mean `tests`?

    s.yaml:1: prompts[1].id: missing; write the text as `raw`, or `file://` and a path as `id`
    s.yaml:1: prompts[2]: cannot read nowhere: No such file or directory (os error 2); name a text file
    s.yaml:2: tests[0].transform: unknown key; known here: description, vars, assert, threshold, metadata, options, provider, providers, prompts, assertScoringFunction

    s.yaml:4: tests[0].assert[0].type: there is no assertion "contain"; did you mean `contains`?
    s.yaml:5: tests[1].assert: found a mapping with 1 keys; write a list: `- { type: contains, value: .. }`
    s.yaml:6: tests[2].assert[0].type: missing; write what is to hold, such as `type: contains`
    s.yaml:6: tests[2].assert[1].type: a set has no opposite; negate its assertions one by one
    s.yaml:6: tests[2].assert[2].assert: a set of nothing; list its assertions under `assert`
    s.yaml:7: tests[3].assert[0].transform: it would change the verdict and is not done here; an answer is judged as it is: compare with `is-json`, `contains-json` or `regex`
    s.yaml:7: tests[3].assert[0].weight: -1 is below 0; give 0 or more
    s.yaml:8: tests[4].assert[0]: `min` and `max` are of a `word-count` without a `value`; write `{ type: word-count, min: .., max: .. }`
    s.yaml:8: tests[4].assert[1].threshold: found "much"; give a number

    s.yaml:3: tests: there is no provider "two"; the suite has none: remove this

    s.yaml:1: prompts: two have the label "a"; give each a `label` of its own
    s.yaml:2: providers[0].prompts: it would change verdicts and is not done here; remove it
    s.yaml:2: providers: two have the label "x"; give each a `label` of its own
    s.yaml:3: evaluateOptions.repeat: unknown key; known here: maxConcurrency, showProgressBar, cache, delay, timeoutMs, maxEvalTimeMs, generateSuggestions
    s.yaml:4: env: it would change verdicts and is not done here; set the environment before the program starts

    s.yaml:1: the file is not readable YAML: unclosed bracket '[' at line 1, column 10; check the indentation, the colons and the quotes near this line
    "###);
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}", key in "(prompts|tests|defaultTest|providers)") {
        let _ = read(&text);
        let _ = read(&format!("prompts: [a]\n{key}: {text}\n"));
        let _ = read(&format!("prompts: [a]\ntests:\n  - assert:\n    - {text}\n"));
    }
}
