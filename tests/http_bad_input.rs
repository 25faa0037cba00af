//! Bad requests get a clear error in OpenAI's body, never a 500, and the server serves on.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Setup, chat, completion, start, start_with, with};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// (path, body, status, code, param)
type Case = (&'static str, Value, u16, &'static str, Option<&'static str>);

fn chat_cases() -> Vec<Case> {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let nested = (0..40).fold(json!({}), |inner, _| json!({"properties": inner}));
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let c = |members: Value, code, param| (CHAT, with(chat(), members), 400, code, Some(param));
    let said = |message: Value, code, param| {
        (CHAT, with(chat(), json!({"messages": [message]})), 400, code, Some(param))
    };
    vec![
        (CHAT, json!({}), 400, "missing_required_parameter", Some("model")),
        (CHAT, json!({"model": "desk"}), 400, "missing_required_parameter", Some("messages")),
        c(json!({"model": 7}), "invalid_type", "model"),
        (CHAT, with(chat(), json!({"model": "nobody"})), 404, "model_not_found", Some("model")),
        (CHAT, with(chat(), json!({"model": ""})), 404, "model_not_found", Some("model")),
        (CHAT, with(chat(), json!({"model": "desk@v9"})), 404, "model_not_found", Some("model")),
        (CHAT, with(chat(), json!({"model": "desk@"})), 404, "model_not_found", Some("model")),
        (CHAT, with(chat(), json!({"model": "../../etc\u{0}\n"})), 404, "model_not_found", Some("model")),
        (CHAT, with(chat(), json!({"model": "desk@v3"})), 503, "model_not_ready", None),
        c(json!({"messages": "hi"}), "invalid_type", "messages"),
        c(json!({"messages": []}), "empty_array", "messages"),
        c(json!({"messages": null}), "invalid_type", "messages"),
        c(json!({"messages": deep}), "invalid_type", "messages[0]"),
        said(json!(["user", "hi"]), "invalid_type", "messages[0]"),
        said(json!({"role": "user", "content": [["text", "hi"]]}), "invalid_type", "messages[0].content[0]"),
        c(json!({"stream": true, "stream_options": [true]}), "invalid_type", "stream_options"),
        said(json!("hi"), "invalid_type", "messages[0]"),
        said(json!({"content": "hi"}), "missing_required_parameter", "messages[0].role"),
        said(json!({"role": 1, "content": "hi"}), "invalid_type", "messages[0].role"),
        said(json!({"role": "king", "content": "hi"}), "invalid_value", "messages[0].role"),
        said(
            json!({"role": "tool", "content": "hi"}),
            "missing_required_parameter",
            "messages[0].tool_call_id",
        ),
        said(json!({"role": "user"}), "missing_required_parameter", "messages[0].content"),
        said(json!({"role": "user", "content": 5}), "invalid_type", "messages[0].content"),
        said(
            json!({"role": "user", "content": [{"type": "text"}]}),
            "missing_required_parameter",
            "messages[0].content[0].text",
        ),
        said(
            json!({"role": "user", "content": [{"text": "x"}]}),
            "missing_required_parameter",
            "messages[0].content[0].type",
        ),
        said(
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "unsupported_parameter",
            "messages[0].content[0].type",
        ),
        said(
            json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function"}]}),
            "missing_required_parameter",
            "messages[0].tool_calls[0].function",
        ),
        said(
            json!({"role": "user", "content": "x", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ]}),
            "invalid_value",
            "messages[0].tool_calls",
        ),
        said(
            json!({"role": "assistant", "content": "x", "function_call": {"name": "f"}}),
            "unsupported_parameter",
            "messages[0].function_call",
        ),
        said(
            json!({"role": "user", "content": "x", "reasoning_content": "hm"}),
            "invalid_value",
            "messages[0].reasoning_content",
        ),
        said(
            json!({"role": "assistant", "content": "x", "refusal": "no"}),
            "unsupported_parameter",
            "messages[0].refusal",
        ),
        said(json!({"role": "user", "content": "x", "weight": 1}), "unknown_parameter", "messages[0].weight"),
        said(
            json!({"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}),
            "unknown_parameter",
            "messages[0].content[0].cache_control",
        ),
        said(json!({"role": "developer", "content": "x"}), "invalid_value", "messages"),
        c(json!({"temperature": "hot"}), "invalid_type", "temperature"),
        c(json!({"temperature": -0.1}), "decimal_below_min_value", "temperature"),
        c(json!({"temperature": 2.1}), "decimal_above_max_value", "temperature"),
        c(json!({"top_p": 0}), "decimal_below_min_value", "top_p"),
        c(json!({"top_p": 1e-300}), "decimal_below_min_value", "top_p"),
        c(json!({"top_p": 1.5}), "decimal_above_max_value", "top_p"),
        c(json!({"top_k": -2}), "integer_below_min_value", "top_k"),
        c(json!({"top_k": 1.5}), "invalid_type", "top_k"),
        c(json!({"min_p": 2}), "decimal_above_max_value", "min_p"),
        c(json!({"repetition_penalty": 0}), "decimal_below_min_value", "repetition_penalty"),
        c(json!({"repetition_penalty": 1e-40}), "decimal_below_min_value", "repetition_penalty"),
        c(json!({"repetition_penalty": 0.009}), "decimal_below_min_value", "repetition_penalty"),
        c(json!({"repetition_penalty": 1e300}), "decimal_above_max_value", "repetition_penalty"),
        c(json!({"presence_penalty": 3}), "decimal_above_max_value", "presence_penalty"),
        c(json!({"frequency_penalty": -3}), "decimal_below_min_value", "frequency_penalty"),
        c(json!({"max_tokens": 0}), "integer_below_min_value", "max_tokens"),
        c(json!({"max_tokens": -1}), "integer_below_min_value", "max_tokens"),
        c(json!({"max_tokens": 1e30}), "invalid_type", "max_tokens"),
        c(json!({"max_tokens": i64::MAX}), "integer_above_max_value", "max_tokens"),
        c(json!({"max_completion_tokens": 0}), "integer_below_min_value", "max_completion_tokens"),
        c(json!({"max_completion_tokens": 3}), "invalid_value", "max_tokens"),
        c(json!({"max_tokens": 4000}), "context_length_exceeded", "messages"),
        c(
            json!({"messages": [{"role": "user", "content": "x".repeat(5000)}]}),
            "context_length_exceeded",
            "messages",
        ),
        c(
            json!({"messages": [{"role": "user", "content": "x".repeat(50_000)}]}),
            "context_length_exceeded",
            "messages",
        ),
        c(json!({"min_tokens": 5}), "invalid_value", "min_tokens"),
        c(json!({"n": 0}), "integer_below_min_value", "n"),
        c(json!({"n": 1000}), "integer_above_max_value", "n"),
        c(json!({"seed": "x"}), "invalid_type", "seed"),
        c(json!({"stop": 5}), "invalid_type", "stop"),
        c(json!({"stop": ["a", 5]}), "invalid_type", "stop[1]"),
        c(json!({"stop": ["a", ""]}), "invalid_value", "stop[1]"),
        c(json!({"stop": vec!["x"; 17]}), "array_above_max_length", "stop"),
        c(json!({"stop_token_ids": [-1]}), "invalid_value", "stop_token_ids[0]"),
        c(json!({"stop_token_ids": [99_999]}), "invalid_value", "stop_token_ids"),
        c(json!({"logit_bias": {"x": 1}}), "invalid_value", "logit_bias"),
        c(json!({"logit_bias": {"5": 101}}), "decimal_above_max_value", "logit_bias.5"),
        c(json!({"logit_bias": {"99999": 1}}), "invalid_value", "logit_bias"),
        c(json!({"logit_bias": [1]}), "invalid_type", "logit_bias"),
        c(json!({"logprobs": 3}), "invalid_type", "logprobs"),
        c(json!({"top_logprobs": 3}), "invalid_value", "top_logprobs"),
        c(json!({"logprobs": true, "top_logprobs": 21}), "integer_above_max_value", "top_logprobs"),
        c(json!({"stream": "yes"}), "invalid_type", "stream"),
        c(json!({"stream_options": {"include_usage": true}}), "invalid_value", "stream_options"),
        c(
            json!({"stream": true, "stream_options": {"usage": true}}),
            "unknown_parameter",
            "stream_options.usage",
        ),
        c(json!({"tools": [{"type": "function"}]}), "missing_required_parameter", "tools[0].function"),
        c(json!({"tools": ["f"]}), "invalid_type", "tools[0]"),
        c(json!({"tools": [tool("f")]}), "invalid_value", "tools"),
        c(json!({"tools": [tool("no name")]}), "invalid_value", "tools[0].function.name"),
        c(json!({"tools": [tool("f"), tool("f")]}), "invalid_value", "tools[1].function.name"),
        c(json!({"tools": vec![tool("f"); 129]}), "array_above_max_length", "tools"),
        c(
            json!({"tools": [{"type": "web_search", "function": {"name": "f"}}]}),
            "unsupported_parameter",
            "tools[0].type",
        ),
        c(
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": nested}}]}),
            "invalid_value",
            "tools[0].function.parameters",
        ),
        c(
            json!({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "invalid_value",
            "tool_choice.function.name",
        ),
        c(json!({"tools": [tool("f")], "tool_choice": "maybe"}), "invalid_value", "tool_choice"),
        c(json!({"functions": [{"name": "f"}]}), "unsupported_parameter", "functions"),
        c(json!({"tool_choice": "required"}), "invalid_value", "tool_choice"),
        c(json!({"parallel_tool_calls": "yes"}), "invalid_type", "parallel_tool_calls"),
        c(json!({"metadata": {"run": 7}}), "invalid_type", "metadata.run"),
        c(json!({"store": true}), "unsupported_parameter", "store"),
        c(json!({"prompt_cache_key": 7}), "unsupported_parameter", "prompt_cache_key"),
        c(json!({"reasoning_effort": 3}), "invalid_type", "reasoning_effort"),
        c(json!({"response_format": "json_object"}), "invalid_type", "response_format"),
        c(json!({"echo": true}), "unsupported_parameter", "echo"),
        c(json!({"temprature": 1}), "unknown_parameter", "temprature"),
        c(
            json!({"chat_template_kwargs": {"messages": []}}),
            "invalid_value",
            "chat_template_kwargs.messages",
        ),
        c(json!({"user": 5}), "invalid_type", "user"),
    ]
}

fn other_cases() -> Vec<Case> {
    let c = |members: Value, code, param| (TEXT, with(completion(), members), 400, code, Some(param));
    let whole = |path, body, code, param| (path, body, 400, code, Some(param));
    vec![
        whole(TEXT, json!({"model": "desk"}), "missing_required_parameter", "prompt"),
        c(json!({"prompt": null}), "invalid_type", "prompt"),
        c(json!({"prompt": {}}), "invalid_type", "prompt"),
        c(json!({"prompt": []}), "empty_array", "prompt"),
        c(json!({"prompt": [[]]}), "empty_array", "prompt[0]"),
        c(json!({"prompt": [1, "a"]}), "invalid_type", "prompt[1]"),
        c(json!({"prompt": ["a", [1]]}), "invalid_type", "prompt[1]"),
        c(json!({"prompt": [1.5]}), "invalid_type", "prompt[0]"),
        c(json!({"prompt": [-1]}), "invalid_value", "prompt[0]"),
        c(json!({"prompt": [99_999]}), "invalid_value", "prompt"),
        c(json!({"prompt": ["a", [1], 2]}), "invalid_type", "prompt[1]"),
        c(json!({"prompt": vec!["a"; 200]}), "array_above_max_length", "prompt"),
        c(json!({"suffix": "x"}), "unsupported_parameter", "suffix"),
        c(json!({"best_of": 1, "n": 2}), "invalid_value", "best_of"),
        c(json!({"best_of": 129}), "integer_above_max_value", "best_of"),
        c(json!({"best_of": 2, "stream": true}), "invalid_value", "best_of"),
        c(json!({"best_of": 65, "prompt": ["a", "b"]}), "array_above_max_length", "prompt"),
        c(json!({"logprobs": true}), "invalid_type", "logprobs"),
        c(json!({"logprobs": 50}), "integer_above_max_value", "logprobs"),
        c(json!({"messages": []}), "unknown_parameter", "messages"),
        c(json!({"max_tokens": 9999}), "context_length_exceeded", "prompt"),
        whole("/v1/embeddings", json!({"model": "desk"}), "missing_required_parameter", "input"),
        whole("/v1/embeddings", json!({"model": "desk", "input": "x"}), "model_of_another_kind", "model"),
        whole("/tokenize", json!({"model": "desk"}), "missing_required_parameter", "prompt"),
        whole("/tokenize", json!({"prompt": "x", "messages": []}), "invalid_value", "messages"),
        whole(
            "/tokenize",
            json!({"messages": [{"role": "user", "content": "x", "weight": 1}]}),
            "unknown_parameter",
            "messages[0].weight",
        ),
        whole("/detokenize", json!({"tokens": [99_999]}), "invalid_value", "tokens"),
        whole("/detokenize", json!({"tokens": vec![99_999; 10_000]}), "invalid_value", "tokens"),
        whole("/detokenize", json!({"tokens": "x"}), "invalid_type", "tokens"),
        whole("/detokenize", json!({}), "missing_required_parameter", "tokens"),
    ]
}

#[tokio::test]
async fn every_malformed_body_gets_its_error_and_the_server_serves_on() {
    let server = start().await;
    let cases: Vec<Case> = chat_cases().into_iter().chain(other_cases()).collect();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for (path, body, status, code, param) in &cases {
        let response = server.post(path, body).await;
        let found = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        let error = &answer["error"];
        let kind = if *status == 503 { "server_error" } else { "invalid_request_error" };
        let fits = found == *status
            && error["code"] == *code
            && error["type"] == kind
            && error["param"] == json!(param);
        let shown: String = body.to_string().chars().take(160).collect();
        if !fits || error["message"].as_str().unwrap().is_empty() {
            wrong.push(format!("{path} {shown}\n  wanted {status} {code} {param:?}\n  got {found} {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.ask(CHAT, &chat()).await;
    server.ask(TEXT, &completion()).await;
}

#[tokio::test]
async fn what_is_not_json_or_not_an_object_is_told_so() {
    let server = start().await;
    for body in
        ["", "{", "nul", "[]", "5", "{\"model\": 1e999}", "{} trailing", "\u{feff}{}", &"[".repeat(100_000)]
    {
        let request = server.client.post(server.url(CHAT)).header("content-type", "application/json");
        let response = request.body(body.to_owned()).send().await.unwrap();
        assert_eq!(response.status(), 400, "{body:.20}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["code"], "invalid_json", "{body:.20}");
    }
    let request = server.client.post(server.url(CHAT)).header("content-type", "application/json");
    let response = request.body(vec![b'{', b'"', 0xff, b'"', b':', b'1', b'}']).send().await.unwrap();
    assert_eq!(response.status(), 400);
    server.ask(CHAT, &chat()).await;
}

#[tokio::test]
async fn wrong_paths_methods_and_types_are_told_apart() {
    let server = start().await;
    let cases = [
        ("GET", CHAT, None, 405, "method_not_allowed"),
        ("DELETE", "/health", None, 405, "method_not_allowed"),
        ("POST", "/v1/models", Some("application/json"), 405, "method_not_allowed"),
        ("GET", "/v1/nothing", None, 404, "unknown_url"),
        ("POST", "/", Some("application/json"), 404, "unknown_url"),
        ("GET", "/v1/models/nobody", None, 404, "model_not_found"),
        ("GET", "/v1/models/%FF", None, 400, "invalid_path"),
        ("POST", CHAT, Some("text/plain"), 415, "unsupported_media_type"),
        ("POST", CHAT, Some("application/x-www-form-urlencoded"), 415, "unsupported_media_type"),
        ("POST", CHAT, None, 415, "unsupported_media_type"),
        ("GET", "/admin/models", None, 404, "unknown_url"),
    ];
    for (method, path, kind, status, code) in cases {
        let mut request = server.client.request(method.parse().unwrap(), server.url(path));
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let response = request.body("{}").send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(status == 405, response.headers().contains_key("allow"), "{method} {path}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["code"], code, "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_however_it_comes() {
    let server = start_with(Setup { server: "  body_limit: 4KiB\n", ..Setup::default() }).await;
    let large = with(chat(), json!({"user": "x".repeat(5000)}));
    let response = server.post(CHAT, &large).await;
    assert_eq!(response.status(), 413);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["error"]["code"], "request_too_large");

    let text = large.to_string();
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        text.as_bytes().chunks(1000).map(|c| Ok(c.to_vec())).collect();
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let request = server.client.post(server.url(CHAT)).header("content-type", "application/json");
    assert_eq!(request.body(body).send().await.unwrap().status(), 413);
    server.ask(CHAT, &chat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_wire_does_no_harm() {
    let server = start().await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for bytes in
        [b"\x16\x03\x01\x02\x00".as_slice(), b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", long.as_bytes()]
    {
        let mut stream = TcpStream::connect(server.app.public).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            !String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 5"),
            "{:?}",
            &bytes[..bytes.len().min(20)]
        );
    }
    // A body that breaks off.
    let mut stream = TcpStream::connect(server.app.public).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    drop(stream);
    server.ask(CHAT, &chat()).await;
}

#[tokio::test]
async fn keys_are_asked_for_where_they_are_configured() {
    let server = start_with(Setup { server: "  api_keys: [sk-one, sk-two]\n", ..Setup::default() }).await;
    for (header, status) in [
        (None, 401),
        (Some("Bearer sk-three"), 401),
        (Some("Bearer "), 401),
        (Some("Basic sk-one"), 401),
        (Some("sk-one"), 401),
        (Some("Bearer sk-one"), 200),
        (Some("bearer sk-two"), 200),
    ] {
        let mut request = server.client.post(server.url(CHAT)).json(&chat());
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{header:?}");
        if status == 401 {
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["error"]["code"], "invalid_api_key");
        }
    }
    assert_eq!(server.get("/v1/models").await.status(), 401);
    assert_eq!(server.get("/health").await.status(), 200);
    assert_eq!(server.get("/metrics").await.status(), 200);
}

#[tokio::test]
async fn what_is_refused_at_the_door_is_counted() {
    let setup = Setup { server: "  api_keys: [sk-one]\n  body_limit: 4KiB\n", ..Setup::default() };
    let server = start_with(setup).await;
    let send = |key: &str, path: &str, body: String| {
        let request = server.client.post(server.url(path)).bearer_auth(key);
        request.header("content-type", "application/json").body(body).send()
    };
    let unknown = with(chat(), json!({"model": "nobody"})).to_string();
    for (key, path, body, status) in [
        ("sk-two", CHAT, chat().to_string(), 401),
        ("sk-one", CHAT, "{".into(), 400),
        ("sk-one", CHAT, "x".repeat(5000), 413),
        ("sk-one", CHAT, unknown, 404),
        ("sk-one", CHAT, chat().to_string(), 200),
        ("sk-one", "/v1/anything/at/all", "{}".into(), 404),
    ] {
        let path_label = if path == CHAT { CHAT } else { "other" };
        let series = format!(r#"switchback_http_requests_total{{path="{path_label}",status="{status}"}}"#);
        let before = server.counted(&series).await;
        assert_eq!(send(key, path, body).await.unwrap().status(), status);
        assert_eq!(server.counted(&series).await, before + 1, "{series}");
    }
    server.admin(reqwest::Method::GET, "/admin/models/nobody/route", None).await;
    let series = r#"switchback_http_requests_total{path="/admin/models/{model}/route",status="404"}"#;
    assert_eq!(server.counted(series).await, 1);
    let text = server.get("/metrics").await.text().await.unwrap();
    assert!(!text.contains("anything"), "a client has made a time series: {text}");
}
