//! Checks as operators write them, over answers as models give them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{self, CheckSpec};

pub(super) fn specs(list: &str) -> Vec<CheckSpec> {
    let embedding = if list.contains("similar") { "\nembedding: { image: e }" } else { "" };
    let text = format!(
        "server: {{ mode: dev }}\nmodels: {{ m: {{ versions: {{ v1: {{ image: a }} }}, checks: {list} }} }}{embedding}"
    );
    let config = config::parse(&text, Path::new("/sb.yaml"), &|_| None).unwrap_or_else(|e| panic!("{e}"));
    config.models[&"m".parse().unwrap()].checks.clone()
}

pub(super) fn checks(list: &str) -> Checks {
    Checks::compile(&specs(list), None).unwrap()
}

pub(super) fn response(text: &str) -> Response {
    Response {
        text: text.to_owned(),
        finish_reason: FinishReason::Stop,
        output_tokens: 7,
        time_to_first_token: Some(Duration::from_millis(20)),
        elapsed: Duration::from_millis(150),
        tool_calls: Vec::new(),
        tools: Arc::default(),
    }
}

fn judged(check: &str, response: &Response) -> Judgement {
    let checks = checks(&format!("[{check}]"));
    let judgement = checks.judge(response).next().unwrap().1;
    judgement.unwrap()
}

/// Whether the text passes, after a look at what the reason says.
fn passes(check: &str, text: &str) -> bool {
    let found = judged(check, &response(text));
    assert!(!found.reason.is_empty() && found.reason.chars().count() <= 243, "{found:?}");
    found.verdict == Verdict::Pass
}

fn reason(check: &str, text: &str) -> String {
    judged(check, &response(text)).reason
}

/// Each check with texts that pass and texts that fail.
#[test]
fn checks_tell_good_answers_from_bad_ones() {
    let schema = "{ type: json-schema, schema: { type: object, required: [a], properties: { a: { type: integer } } } }";
    for (check, good, bad) in [
        (
            "is-json",
            &["{}", " [1, null]\n", "\"x\"", "3"][..],
            &["", "{", "{} x", "```json\n{}\n```", "NaN"][..],
        ),
        (schema, &[r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#], &["{}", r#"{"a": "1"}"#, "[]", "text"]),
        ("{ type: regex, value: 'A-[0-9]{3}' }", &["order A-123."], &["order A-12"]),
        ("{ type: not-regex, value: '(?i)foo' }", &["bar"], &["a FOO"]),
        ("{ type: contains, value: Yes }", &["oh Yes"], &["yes", ""]),
        ("{ type: not-contains, value: Yes }", &["yes"], &["oh Yes"]),
        ("{ type: icontains, value: 'GRÜẞE' }", &["viele grüße"], &["gruesse"]),
        ("{ type: contains-any, value: [a, b] }", &["xb", "ab"], &["c"]),
        ("{ type: contains-all, value: [a, b] }", &["b a"], &["xb", "a"]),
        ("{ type: not-contains-all, value: [a, b] }", &["xb", "a"], &["b a"]),
        ("{ type: not-icontains-any, value: [a, b] }", &["c"], &["A", "B"]),
        ("{ type: equals, value: 'yes' }", &["yes"], &["yes ", "Yes"]),
        ("{ type: equals, value: { a: 1, b: [x] } }", &[r#"{"b":["x"],"a":1}"#], &[r#"{"a":1}"#, "a"]),
        ("{ type: not-equals, value: 'yes' }", &["no"], &["yes"]),
        ("{ type: starts-with, value: 'Dear' }", &["Dear Anna"], &[" Dear Anna", "dear"]),
        ("{ type: length, min: 2, max: 3 }", &["ää", "abc", "🙂🙂🙂"], &["ä", "abcd", ""]),
        ("{ type: length, unit: words, max: 2 }", &["one  two", ""], &["one two three"]),
        (
            "{ type: language, value: [en, es] }",
            &[
                "We have started the refund for your order and will write to you again soon.",
                "Hemos iniciado el reembolso de su pedido y le escribiremos pronto.",
                "Genau.",
                r#"{"intent": "order_status", "n": 3}"#,
            ],
            &[
                "Wir haben die Erstattung für Ihre Bestellung veranlasst und melden uns bald wieder bei Ihnen.",
                r#"{"reply": "Wir haben die Erstattung für Ihre Bestellung veranlasst und melden uns bald."}"#,
            ],
        ),
    ] {
        for text in good {
            assert!(passes(check, text), "{check} fails {text:?}: {}", reason(check, text));
        }
        for text in bad {
            assert!(!passes(check, text), "{check} passes {text:?}: {}", reason(check, text));
        }
    }
}

#[test]
fn limits_look_at_what_came_with_the_text() {
    let answer = response("x");
    let verdict = |check: &str| judged(check, &answer).verdict;
    assert_eq!(verdict("{ type: length, unit: tokens, max: 7 }"), Verdict::Pass);
    assert_eq!(verdict("{ type: length, unit: tokens, max: 6 }"), Verdict::Fail);
    assert_eq!(verdict("{ type: latency, max: 150ms }"), Verdict::Pass);
    assert_eq!(verdict("{ type: latency, max: 149ms }"), Verdict::Fail);
    assert_eq!(verdict("{ type: latency, max: 20ms, of: first-token }"), Verdict::Pass);
    assert_eq!(verdict("{ type: latency, max: 19ms, of: first-token }"), Verdict::Fail);
    assert_eq!(verdict("{ type: finish-reason, value: [stop, length] }"), Verdict::Pass);
    assert_eq!(verdict("{ type: finish-reason, value: tool_calls }"), Verdict::Fail);
    let silent = Response { time_to_first_token: None, ..answer };
    assert_eq!(judged("{ type: latency, max: 1ms, of: first-token }", &silent).verdict, Verdict::Pass);
}

#[test]
fn reasons_name_what_was_found_and_what_was_wanted() {
    for (check, text, wanted) in [
        ("is-json", "{\"a\"", "not JSON (EOF while parsing an object at line 1 column 4): \"{\\\"a\\\"\""),
        ("{ type: regex, value: 'a+' }", "b", "nothing matches \"a+\" in \"b\""),
        (
            "{ type: contains-any, value: [a, b, c, d] }",
            "x",
            "none of \"a\", \"b\", \"c\" and 1 more occurs in \"x\"",
        ),
        ("{ type: length, unit: words, min: 3 }", "a b", "2 words, fewer than 3"),
        ("{ type: latency, max: 10ms }", "", "150.0 ms to the end, more than 10.0 ms"),
        ("{ type: finish-reason, value: length }", "", "ended for stop; allowed: length"),
        (
            "refusal",
            "I cannot help with that.",
            "declines (\"i cannot help with\"): \"I cannot help with that.\"",
        ),
        (
            "{ type: language, value: fr }",
            "We have started the refund for your order and will write soon.",
            "English, not fr: \"We have started the refund for your order and will write soon.\"",
        ),
    ] {
        assert_eq!(reason(check, text), wanted);
    }
    let schema = "{ type: json-schema, schema: { properties: { a: { enum: [x, y] } } } }";
    let why = reason(schema, r#"{"a": "z"}"#);
    assert!(why.starts_with("\"/a\": ") && why.ends_with(r#"found "z""#), "{why}");
}

#[test]
fn refusals_are_found_however_they_are_typed() {
    for text in [
        "I'm sorry, but I can't help with that.",
        "  I’m   sorry,\nbut I can’t do it",
        "I AM UNABLE TO ASSIST with this.",
        "Sorry, I cannot discuss that",
        r#"{"intent": "refund", "reply": "I'm sorry, but I can't help with that."}"#,
        r#"["ok", {"x": "I cannot assist"}]"#,
        r#""I must decline.""#,
        "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
        "Je suis désolé, mais je ne peux pas répondre à cela.",
        "Lo siento, no puedo ayudarte con eso.",
        // Cut off within its JSON: the text itself is looked at.
        r#"{"reply": "I cannot help with"#,
    ] {
        assert!(!passes("refusal", text), "{text}: {}", reason("refusal", text));
    }
    let late = format!("{} I cannot help with that.", "We did it all. ".repeat(20));
    for text in [
        "",
        "Anna, we are sorry, a new tent is on its way.",
        "I'm sorry to hear that! We have started the refund.",
        "You can't help but like it.",
        "Wi cannot helpful",
        r#"{"reply": "Your order is on its way."}"#,
        late.as_str(),
    ] {
        assert!(passes("refusal", text), "{text}: {}", reason("refusal", text));
    }
}

#[test]
fn refusal_phrases_can_be_added_or_replaced() {
    let own = "Das ist NICHT   mein Amt";
    assert!(passes("refusal", own));
    let added = "{ type: refusal, phrases: ['nicht mein amt'] }";
    let alone = "{ type: refusal, phrases: ['nicht mein amt'], list: replace }";
    assert!(!passes(added, own) && !passes(alone, own));
    assert!(!passes(added, "I cannot help with that") && passes(alone, "I cannot help with that"));
}

#[test]
fn tool_calls_must_name_a_tool_and_fit_its_schema() {
    let call = |name: &str, arguments: &str| ToolCall { name: name.into(), arguments: arguments.into() };
    let parameters = json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}});
    let tools = vec![
        Tool { name: "find".into(), parameters },
        Tool { name: "odd".into(), parameters: json!({"type": 7}) },
    ];
    let judge = |tool_calls: Vec<ToolCall>| {
        judged("tool-call-valid", &Response { tool_calls, tools: tools.clone().into(), ..response("") })
    };
    assert_eq!(judge(vec![]), Judgement { verdict: Verdict::Pass, reason: "no tool calls".into() });
    assert_eq!(judge(vec![call("find", r#"{"id": "x"}"#), call("odd", "1")]).verdict, Verdict::Pass);
    for (bad, why) in [
        (call("fnid", "{}"), "the request has no tool \"fnid\""),
        (call("find", "{id"), "are not JSON"),
        (call("find", "{}"), "do not fit"),
        (call("find", r#"{"id": 3}"#), "\"/id\""),
    ] {
        let found = judge(vec![call("find", r#"{"id": "x"}"#), bad]);
        assert!(found.verdict == Verdict::Fail && found.reason.contains(why), "{found:?}");
    }
}

#[test]
fn what_does_not_compile_says_where_and_what_would_do() {
    let specs = specs(
        "[{ type: regex, value: '(a' }, is-json, { type: regex, value: '(?=a)', name: look },
          { type: regex, value: '\\w{9000}', name: big }, { type: language, value: xx },
          { type: json-schema, schema: { type: objet } },
          { type: json-schema, schema: { $ref: 'http://127.0.0.1/x' }, name: net },
          { type: json-schema, schema: { pattern: '(?=a)' }, name: pat },
          { type: refusal, phrases: [' '] }]",
    );
    let errors = Checks::compile(&specs, None).unwrap_err();
    let places: Vec<_> = errors.iter().map(|e| (e.index, e.check.as_str(), e.field)).collect();
    let wanted = [
        (0, "regex", "value"),
        (2, "look", "value"),
        (3, "big", "value"),
        (4, "language", "value"),
        (5, "json-schema", "schema"),
        (6, "net", "schema"),
        (7, "pat", "schema"),
        (8, "refusal", "phrases"),
    ];
    assert_eq!(places, wanted);
    let said: Vec<_> = errors.iter().map(|e| format!("{} | {}", e.found, e.fix)).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
"(a" is no regular expression: unclosed group | write it in the syntax of Rust's regex crate, which has no look-around and no back-references
"(?=a)" is no regular expression: look-around, including look-ahead and look-behind, is not supported | write it in the syntax of Rust's regex crate, which has no look-around and no back-references
"\\w{9000}" becomes larger than 1048576 bytes | write it in the syntax of Rust's regex crate, which has no look-around and no back-references
"xx" is no language that can be recognised | known: af, ak, am, ar, az, be, bg, bn, ca, cs, cy, da, de, el, en, eo, es, et, fa, fi, fr, gu, he, hi, hr, hu, hy, id, it, ja, jv, ka, km, kn, ko, la, lt, lv, mk, ml, mr, my, nb, ne, nl, no, or, pa, pl, pt, ro, ru, si, sk, sl, sn, sr, sv, ta, te, th, tk, tl, tr, uk, ur, uz, vi, yi, zh, zu
"/type": the value is not valid under any of the schemas listed in the 'anyOf' keyword; found "objet" | correct the schema; references to other documents and look-around in patterns are not supported
the schema: Resource 'http://127.0.0.1/x' is not present in a registry and retrieving it failed: Retrieval is disabled, cannot fetch http://127.0.0.1/x; found null | correct the schema; references to other documents and look-around in patterns are not supported
"/pattern": the value is not a "regex"; found "(?=a)" | correct the schema; references to other documents and look-around in patterns are not supported
"" is blank, or longer than 240 characters | write a few words that a refusal has near its beginning
"#);
}

/// An embedder of two dimensions, such as no model is: what has an `a` points one way, all else the other. It counts how
/// often it is asked, and fails where a text has a `!`.
fn letters() -> (Embedder, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let embedder = Embedder::new(move |text| {
        counter.fetch_add(1, Ordering::Relaxed);
        match text {
            text if text.contains('!') => Err("an exclamation".to_owned()),
            text if text.contains("ab") => Ok(Embedding::unit(vec![0.8, 0.6]).unwrap()),
            text if text.contains('a') => Ok(Embedding::unit(vec![1.0, 0.0]).unwrap()),
            _ => Ok(Embedding::unit(vec![0.0, 1.0]).unwrap()),
        }
    });
    (embedder, asked)
}

const SIMILAR: &str = "[{ type: similar, value: a, name: near }, { type: similar, value: a, threshold: 0.9, name: nearer },
    { type: similar, value: [a, z], threshold: 0.9, name: either }, { type: not-similar, value: a, name: far }]";

#[test]
fn an_answer_is_compared_with_the_nearest_reference_and_embedded_once() {
    let (embedder, asked) = letters();
    let checks = Checks::compile(&specs(SIMILAR), Some(&embedder)).unwrap();
    assert_eq!(asked.swap(0, Ordering::Relaxed), 5, "each reference, once");
    let verdicts = |text: &str| -> Vec<Verdict> {
        checks.judge(&response(text)).map(|(_, judged)| judged.unwrap().verdict).collect()
    };
    let (pass, fail) = (Verdict::Pass, Verdict::Fail);
    assert_eq!(verdicts("a"), [pass, pass, pass, fail]);
    assert_eq!(asked.swap(0, Ordering::Relaxed), 1, "four checks, one embedding");
    assert_eq!(verdicts("ab"), [pass, fail, fail, fail]);
    assert_eq!(verdicts("b"), [fail, fail, pass, pass]);
    let reasons: Vec<_> = checks.judge(&response("ab")).map(|(_, judged)| judged.unwrap().reason).collect();
    assert_eq!(reasons[0], "cosine 0.8000 with \"a\", threshold 0.75: \"ab\"");
    assert_eq!(reasons[2], "cosine 0.8000 with \"a\", threshold 0.9: \"ab\"");
}

#[test]
fn an_answer_that_cannot_be_embedded_breaks_the_checks_that_ask_and_no_other() {
    let (embedder, asked) = letters();
    let list = SIMILAR.replacen('[', "[is-json, ", 1);
    let checks = Checks::compile(&specs(&list), Some(&embedder)).unwrap();
    asked.store(0, Ordering::Relaxed);
    let judged: Vec<_> = checks.judge(&response("a!")).map(|(_, judged)| judged).collect();
    assert!(judged[0].as_ref().is_ok_and(|judgement| judgement.verdict == Verdict::Fail), "{judged:?}");
    let broken = CheckBroken::Embedding("an exclamation".to_owned());
    assert!(judged[1..].iter().all(|judged| judged.as_ref() == Err(&broken)), "{judged:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "what failed is not tried again");
}

#[test]
fn a_reference_that_cannot_be_embedded_does_not_compile() {
    let specs = specs("[{ type: similar, value: [a, 'oh!'] }]");
    let said = |embedder: Option<&Embedder>| {
        let errors = Checks::compile(&specs, embedder).unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(said(Some(&letters().0)), @r#"check `similar`, value: "oh!" cannot be embedded: an exclamation; write another text, or configure another `embedding`"#);
    insta::assert_snapshot!(said(None), @r#"check `similar`, type: there is no embedding model; configure one at the top level: `embedding: { image: .., digest: .. }`"#);
}

/// A client or an operator may write a schema that refers to itself for ever.
#[test]
fn schemas_that_go_in_circles_end() {
    for schema in [
        "{ $ref: '#' }",
        "{ allOf: [{ $ref: '#/$defs/a' }], $defs: { a: { $ref: '#/$defs/b' }, b: { $ref: '#/$defs/a' } } }",
        "{ anyOf: [{ $ref: '#' }, { not: { $ref: '#' } }] }",
        "{ properties: { a: { $ref: '#' } } }",
    ] {
        let specs = specs(&format!("[{{ type: json-schema, schema: {schema} }}]"));
        if let Ok(checks) = Checks::compile(&specs, None) {
            assert!(
                checks.judge(&response(r#"{"a": {"a": 1}}"#)).all(|(_, judged)| judged.is_ok()),
                "{schema}"
            );
        }
    }
}

const ALL: &str = r"[is-json, { type: json-schema, schema: { type: object, properties: { a: { maxLength: 2 } } } },
    { type: regex, value: '\b\w+\b.*é' }, { type: not-icontains-any, value: [ß, x] }, { type: equals, value: [1] },
    { type: starts-with, value: '{' }, { type: length, unit: words, min: 2 }, { type: length, name: l, max: 9 },
    refusal, { type: language, value: en }, { type: latency, max: 1ms }, { type: finish-reason, value: stop },
    tool-call-valid]";

fn all_judge(text: &str) -> bool {
    checks(ALL).judge(&response(text)).all(|(_, judged)| judged.is_ok())
}

#[test]
fn deep_and_long_answers_are_judged_like_others() {
    for text in ["[".repeat(100_000), "{\"a\":".repeat(100_000), "🙂".repeat(100_000), "a ".repeat(200_000)]
    {
        assert!(all_judge(&text));
    }
}

proptest! {
    #[test]
    fn no_text_panics_any_check(text in "\\PC{0,300}") {
        prop_assert!(all_judge(&text));
    }

    #[test]
    fn no_bytes_panic_any_check(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(all_judge(&String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn no_json_panics_any_check(text in r#"[\[\]{}",:a-eéß🙂İ'’ \\u0-9\n]{0,120}"#) {
        prop_assert!(all_judge(&text));
    }
}
