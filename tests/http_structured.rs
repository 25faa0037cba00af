//! Answers of a shape that the client asks for, under each name that there is for it, and requests that are refused.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, chat, completion, start, with};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["kind", "size"], "properties": {
        "kind": {"enum": ["order", "return"]}, "size": {"type": "integer", "minimum": 1, "maximum": 12},
    }})
}

fn is_of_schema(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(jsonschema::is_valid(&schema(), &value), "{text}");
}

fn wild(base: Value, members: Value) -> Value {
    with(with(base, json!({"max_tokens": 150, "temperature": 2})), members)
}

async fn said(server: &Server, members: Value) -> String {
    let answer = server.ask(CHAT, &wild(chat(), members.clone())).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "stop", "{members}: {answer}");
    choice["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_name_for_a_shape_gives_an_answer_of_it_at_any_temperature() {
    let server = start().await;
    let named = |strict: Value| {
        json!({"response_format": {"type": "json_schema", "json_schema": {
            "name": "ticket", "description": "a ticket", "strict": strict, "schema": schema()}}})
    };
    let tight = json!({"guided_json": schema(), "guided_whitespace_pattern": " ?"});
    for members in [
        named(json!(true)),
        named(json!(false)),
        named(Value::Null),
        json!({"guided_json": schema()}),
        json!({"guided_json": schema().to_string()}),
        json!({"structured_outputs": {"json": schema()}}),
        json!({"structured_outputs": {"json": schema(), "whitespace_pattern": " "}}),
        tight,
    ] {
        is_of_schema(&said(&server, members).await);
    }
    for name in ["guided_regex", "guided_choice", "guided_grammar"] {
        let (member, value) = match name {
            "guided_regex" => ("regex", json!("^(left|right) [0-9]{2}$")),
            "guided_choice" => ("choice", json!(["left 10", "right (20)"])),
            _ => ("grammar", json!("start: (\"left\" | \"right\") \" \" /[0-9]{2}/")),
        };
        let (older, newer) = (json!({name: value}), json!({"structured_outputs": {member: value}}));
        let texts = [said(&server, older).await, said(&server, newer).await];
        for text in texts {
            let is_one = text.starts_with("left ") || text.starts_with("right ");
            assert!(is_one && text.trim_end_matches(')').len() <= 10, "{name}: {text}");
        }
    }
    let answer = server.ask(TEXT, &wild(completion(), json!({"guided_choice": ["yes", "no"]}))).await;
    assert!(["yes", "no"].contains(&answer["choices"][0]["text"].as_str().unwrap()));
}

#[tokio::test]
async fn json_mode_gives_an_object_or_the_beginning_of_one() {
    let server = start().await;
    for seed in 0..6 {
        for members in [
            json!({"response_format": {"type": "json_object"}, "seed": seed}),
            json!({"structured_outputs": {"json_object": true}, "seed": seed}),
        ] {
            let answer = server.ask(CHAT, &wild(chat(), members)).await;
            let choice = &answer["choices"][0];
            let text = choice["message"]["content"].as_str().unwrap();
            assert!(text.trim_start().starts_with('{'), "{text}");
            if choice["finish_reason"] == "stop" {
                assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_stream_has_the_text_and_the_tokens_of_the_whole_answer() {
    let server = start().await;
    for logprobs in [false, true] {
        let request = wild(chat(), json!({"guided_json": schema(), "logprobs": logprobs, "seed": 5}));
        let whole = server.ask(CHAT, &request).await;
        let streamed = with(request, json!({"stream": true, "stream_options": {"include_usage": true}}));
        let events = server.events(CHAT, &streamed).await;
        let text: String =
            events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
        let tokens = |answer: &Value| answer["usage"]["completion_tokens"].clone();
        assert_eq!(tokens(events.last().unwrap()), tokens(&whole));
        is_of_schema(&text);
        if logprobs {
            let scored = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().len() as u64;
            // the last may be the end of the text, which shows nowhere
            assert!(whole["usage"]["completion_tokens"].as_u64().unwrap() - scored <= 1);
        }
    }
}

#[tokio::test]
async fn constrained_and_free_requests_together_get_what_each_gets_alone() {
    let server = start().await;
    let request = |seed: u64| {
        let members = match seed % 4 {
            0 => json!({"guided_json": schema()}),
            1 => json!({"guided_regex": "([a-z]{3} ){4}end"}),
            2 => json!({"response_format": {"type": "json_object"}, "max_tokens": 60}),
            _ => json!({"max_tokens": 40}),
        };
        with(wild(chat(), members), json!({"seed": seed, "temperature": 1}))
    };
    let mut alone = Vec::new();
    for seed in 0..32 {
        alone.push(server.ask(CHAT, &request(seed)).await["choices"].clone());
    }
    let requests: Vec<Value> = (0..32).map(request).collect();
    let together = requests.iter().map(|request| server.ask(CHAT, request));
    for (together, alone) in futures::future::join_all(together).await.iter().zip(alone) {
        assert_eq!(together["choices"], alone);
    }
}

#[tokio::test]
async fn other_parameters_keep_their_meaning_within_a_shape() {
    let server = start().await;
    let choice = |members: Value| with(json!({"guided_choice": ["abcdef", "abxyz"]}), members);
    let answer = server.ask(CHAT, &wild(chat(), choice(json!({"max_tokens": 2})))).await;
    assert_eq!(
        (&answer["choices"][0]["message"]["content"], &answer["choices"][0]["finish_reason"]),
        (&json!("ab"), &json!("length"))
    );
    assert_eq!(said(&server, choice(json!({"stop": ["b"]}))).await, "a");
    assert_eq!(said(&server, choice(json!({"logit_bias": {"120": -100}}))).await, "abcdef");
    let text = said(&server, choice(json!({"min_tokens": 50, "ignore_eos": true, "n": 1}))).await;
    assert!(["abcdef", "abxyz"].contains(&text.as_str()), "the grammar has the last word: {text}");
    let several = server.ask(CHAT, &wild(chat(), choice(json!({"n": 3})))).await;
    assert_eq!(several["choices"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_cannot_be_kept_to_is_refused_and_names_the_place() {
    let server = start().await;
    let format = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let deep = (0..45).fold(json!({}), |inner, _| json!({"items": inner}));
    let cases = [
        (
            format(json!({"properties": {"a": {"not": {}}}})),
            "response_format",
            "`not` (at `/properties/a/not`)",
        ),
        (format(json!({"type": "strang"})), "response_format", "at `/type`"),
        (format(json!({"items": deep.clone(), "not": {}})), "response_format", "`not`"),
        (format((0..30).fold(deep, |inner, _| json!({"items": inner}))), "response_format", "64 levels"),
        (format(json!({"oneOf": [{"type": "integer"}, {"type": "number"}]})), "response_format", "oneOf"),
        (format(json!({"type": "integer", "minimum": 3, "maximum": 2})), "response_format", "nsatisfiable"),
        (format(json!({"enum": ["x".repeat(70_000)]})), "response_format", "at most 65536"),
        (json!({"response_format": {"type": "yaml"}}), "response_format.type", "`yaml`"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema", "required"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            "response_format.json_schema.schema",
            "required",
        ),
        (json!({"guided_regex": "(a"}), "guided_regex", "unclosed group"),
        (json!({"guided_regex": "(?=a)b"}), "guided_regex", "look-around"),
        (json!({"guided_choice": []}), "guided_choice", "at least one"),
        (json!({"guided_grammar": "root ::= \"a\""}), "guided_grammar", "Lark"),
        (json!({"guided_grammar": "start: other"}), "guided_grammar", "other"),
        (json!({"guided_json": "{"}), "guided_json", "not the text of a JSON schema"),
        (json!({"guided_whitespace_pattern": " "}), "guided_whitespace_pattern", "needs `guided_json`"),
        (json!({"guided_regex": "a", "guided_json": {}}), "guided_regex", "give one of them"),
        (json!({"structured_outputs": {}}), "structured_outputs", "exactly one"),
        (json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}), "structured_outputs", "exactly one"),
        (
            json!({"structured_outputs": {"structural_tag": "x"}}),
            "structured_outputs.structural_tag",
            "structural_tag",
        ),
    ];
    for (members, param, reason) in cases {
        let response = server.post(CHAT, &with(chat(), members.clone())).await;
        assert_eq!(response.status(), 400, "{members}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(
            (&error["param"], &error["type"]),
            (&json!(param), &json!("invalid_request_error")),
            "{error}"
        );
        assert!(error["message"].as_str().unwrap().contains(reason), "{error}");
    }
    // and the server serves on
    is_of_schema(&said(&server, json!({"guided_json": schema()})).await);
}

#[tokio::test]
async fn grammars_made_to_hurt_are_refused_or_answered_and_hurt_nobody() {
    let server = start().await;
    let chain = |links: usize| {
        let defs = (0..links).map(|i| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)})));
        let mut defs: serde_json::Map<_, _> = defs.collect();
        defs.insert(format!("d{links}"), json!({"type": "null"}));
        json!({"guided_json": {"$defs": defs, "$ref": "#/$defs/d0"}})
    };
    let rules = (0..3000).map(|i| format!("r{i}: r{}\n", i + 1)).collect::<Vec<_>>().concat();
    let cases = [
        chain(1800),
        json!({"guided_grammar": format!("start: r0\n{rules}r3000: \"x\"")}),
        json!({"guided_grammar": format!("start: {}\"x\"{}", "(".repeat(120), ")".repeat(120))}),
        json!({"guided_grammar": "start: start start | \"a\""}),
        json!({"guided_grammar": "start: start"}),
        json!({"guided_regex": "(a{1000}){1000}"}),
        json!({"guided_regex": "((a|aa|aaa)*b?){500}"}),
        json!({"guided_regex": ".*a.{400}b.{400}c"}),
        json!({"guided_json": {"type": "string", "minLength": 100_000}}),
        json!({"guided_json": {"type": "array", "items": {}, "minItems": 1_000_000}}),
        json!({"guided_json": {"pattern": "(x+x+)+y", "type": "string"}}),
        json!({"guided_json": {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}}, "$ref": "#/$defs/a"}}),
        json!({"guided_choice": (0..3000).map(|i| format!("choice number {i}")).collect::<Vec<_>>()}),
    ];
    let all = cases.iter().map(|members| {
        let request = with(chat(), json!({"max_tokens": 20, "temperature": 1}));
        let request = with(request, members.clone());
        let server = &server;
        async move {
            let status = server.post(CHAT, &request).await.status();
            assert!(status == 200 || status == 400, "{status}: {:.200}", request.to_string());
        }
    });
    futures::future::join_all(all).await;
    is_of_schema(&said(&server, json!({"guided_json": schema()})).await);
}
