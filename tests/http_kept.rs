//! Answers that are kept for operators, and the cases that bad ones become.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::process::{Process, demo_config, run};
use common::with;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const SUITE: &str = "# the desk\nprompts:\n  - \"{{message}}\" # as it is\ntests:\n  - vars: { message: hi }\n    \
    assert: [{ type: not-is-refusal }]\n\n# the end\n";

/// A server over the demo, whose model keeps so many answers.
fn serve(folder: &Path, keep: &str) -> Process {
    let config = demo_config(folder);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}{keep}")).unwrap();
    Process::serve(&config)
}

async fn ready(server: &Process) {
    let (client, started) = (common::client(), std::time::Instant::now());
    while !client.get(format!("{}/ready", server.public)).send().await.unwrap().status().is_success() {
        assert!(started.elapsed().as_secs() < 30, "the server did not come up");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn ask(server: &Process, path: &str, body: &Value) -> Value {
    let request = common::client().post(format!("{}{path}", server.public)).json(body);
    let text = request.send().await.unwrap().text().await.unwrap();
    let events = text.lines().filter_map(|line| line.strip_prefix("data: ")).next();
    serde_json::from_str(events.unwrap_or(&text)).unwrap_or_else(|e| panic!("{e}: {text}"))
}

async fn kept(server: &Process, id: &str) -> (u16, Value) {
    let request = common::client().get(format!("{}/admin/responses/{id}", server.admin));
    let response = request.header("x-switchback-actor", "ada").send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn question(text: &str) -> Value {
    json!({"model": "desk", "messages": [{"role": "user", "content": text}], "max_tokens": 12})
}

#[tokio::test]
async fn an_answer_of_each_shape_is_found_by_its_id_with_what_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), "    keep_answers: 5\n");
    ready(&server).await;
    let asked = [json!({"role": "user", "content": "Where is my tent?"})];
    let whole = ask(
        &server,
        CHAT,
        &with(question("Where is my tent?"), json!({"temperature": 0.7, "n": 2, "seed": 3})),
    )
    .await;
    let (status, found) = kept(&server, whole["id"].as_str().unwrap()).await;
    assert_eq!((status, &found["id"]), (200, &whole["id"]), "{found}");
    assert_eq!(found["messages"], json!(asked));
    assert_eq!(found["parameters"], json!({"temperature": 0.7, "seed": 3, "max_tokens": 12}));
    assert_eq!(
        (&found["version"], &found["system_fingerprint"]),
        (&json!("desk@v1"), &whole["system_fingerprint"])
    );
    for (choice, kept) in
        whole["choices"].as_array().unwrap().iter().zip(found["choices"].as_array().unwrap())
    {
        assert_eq!(
            (&kept["content"], &kept["finish_reason"]),
            (&choice["message"]["content"], &choice["finish_reason"])
        );
    }
    assert_eq!(found["choices"].as_array().unwrap().len(), 2);

    let streamed = ask(&server, CHAT, &with(question("Where is my tent?"), json!({"stream": true}))).await;
    let responses = json!({"model": "desk", "input": "Where is my tent?", "max_output_tokens": 12});
    let responses = ask(&server, "/v1/responses", &responses).await;
    let messages = with(question("Where is my tent?"), json!({"n": null}));
    let messages = ask(&server, "/v1/messages", &messages).await;
    for answer in [&streamed, &responses, &messages] {
        let (status, found) = kept(&server, answer["id"].as_str().unwrap()).await;
        assert_eq!((status, &found["messages"]), (200, &json!(asked)), "{found}");
        assert_ne!(found["choices"][0]["content"], "");
    }
    // a text that is gone on with is no conversation
    let completion =
        ask(&server, "/v1/completions", &json!({"model": "desk", "prompt": "hi", "max_tokens": 2})).await;
    assert_eq!(kept(&server, completion["id"].as_str().unwrap()).await.0, 404);
    assert_eq!(kept(&server, "chatcmpl-1").await.0, 400);

    // who reads is written down
    let audit = common::client().get(format!("{}/admin/audit?limit=100", server.admin)).send().await.unwrap();
    let audit: Value = audit.json().await.unwrap();
    let lines: Vec<_> =
        audit["entries"].as_array().unwrap().iter().filter(|l| l["action"] == "read_answer").collect();
    assert_eq!((lines.len(), &lines[3]["actor"], &lines[3]["model"]), (4, &json!("ada"), &json!("desk")));
    let number = whole["id"].as_str().unwrap().trim_start_matches("chatcmpl-");
    assert_eq!(lines[3]["detail"], format!("{number} of v1"));

    // the oldest make room
    for _ in 0..5 {
        ask(&server, CHAT, &question("hi")).await;
    }
    let (status, error) = kept(&server, whole["id"].as_str().unwrap()).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("response_not_found")));
    assert!(error["error"]["message"].as_str().unwrap().contains("older than"), "{error}");
}

#[tokio::test]
async fn nothing_is_kept_unless_the_model_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), "");
    ready(&server).await;
    let answer = ask(&server, CHAT, &question("hi")).await;
    let (status, error) = kept(&server, answer["id"].as_str().unwrap()).await;
    assert_eq!(status, 404);
    assert!(error["error"]["message"].as_str().unwrap().contains("set `keep_answers`"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_answer_becomes_a_case_that_fails_as_long_as_it_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), "    keep_answers: 9\n");
    ready(&server).await;
    let suite = folder.path().join("suite.yaml");
    std::fs::write(&suite, SUITE).unwrap();
    let path = suite.to_str().unwrap();
    let add = |id: &str, more: &[&str]| {
        let all = ["suite", "add", "--from-response", id, "--suite", path, "--admin", &server.admin];
        let output = run(&[&all, more].concat());
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), said.concat())
    };
    let read = || std::fs::read_to_string(&suite).unwrap();
    // it is greedy, so that it answers the same again; and says what looks like a template
    let bad = ask(&server, CHAT, &question("Where is {{my}} \"tent\"?")).await;
    let id = bad["id"].as_str().unwrap();
    let (done, said) = add(id, &["--tag", "late", "--tag", "tents"]);
    assert!(done && said.contains(&format!("suite.yaml:7: {id} of desk@v1, ")), "{said}");
    assert!(said.contains("the user's request had max_tokens 12"), "{said}");
    let (head, tail) = SUITE.split_once("\n\n#").unwrap();
    let text = read();
    assert!(text.starts_with(&format!("{head}\n  - description: \"{id} of desk@v1, ")), "{text}");
    assert!(text.ends_with(&format!("\n\n#{tail}")), "{text}");
    let cases = switchback::config::suite::read_suite(&suite).unwrap().cases;
    assert_eq!(
        (&cases[1].vars["message"], &*cases[1].tags),
        (&json!("Where is {{my}} \"tent\"?"), &["late".to_owned(), "tents".to_owned()][..])
    );

    // asked again, with what the user's request said besides, the answer is found bad
    let eval = |more: &[&str]| {
        let all = ["eval", path, "--model", "desk", "--url", &server.public, "--json"];
        let output = run(&[&all, more].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let told = text.replace(
        "prompts:\n",
        "providers:\n  - { id: \"openai:chat:desk\", config: { max_tokens: 12 } }\nprompts:\n",
    );
    std::fs::write(&suite, &told).unwrap();
    let report = eval(&["--tag", "late"]);
    let found = report.to_string();
    assert!(found.contains("not-equals") && found.contains("\"failed\""), "{report:#}");

    // once is enough
    let (done, said) = add(id, &[]);
    assert!(!done && said.contains("has a case of"), "{said}");
    assert_eq!(read(), told);

    // what a good answer holds
    let other = ask(&server, CHAT, &question("I want my money back")).await;
    let other = other["id"].as_str().unwrap();
    let (done, said) = add(other, &["--expect", "{"]);
    assert!(!done && said.contains("would not find it again"), "{said}");
    let (done, said) = add(other, &["--assert", "javascript=1"]);
    assert!(!done && said.contains("not computed here"), "{said}");
    let (done, said) = add(other, &["--assert", "contains={{ nobody }}"]);
    assert!(!done && said.contains("could not be judged") && said.contains("--var"), "{said}");
    assert_eq!(read(), told);
    let (done, said) =
        add(other, &["--expect", "refunded", "--assert", "is-json", "--assert", "latency=5000"]);
    assert!(done, "{said}");
    let cases = switchback::config::suite::read_suite(&suite).unwrap().cases;
    let written: Vec<_> = cases[2].assertions.iter().map(|assertion| assertion.written.as_str()).collect();
    assert_eq!(written, ["icontains", "is-json", "latency"]);

    // a suite that cannot ask the same, or that no case can be put behind, stays as it is
    for (text, why) in [
        (
            "prompts: [\"Be kind. {{message}}\"]\ntests:\n  - vars: { message: a }\n",
            "cannot ask what was asked",
        ),
        ("prompts: [\"{{message}}\"]\ntests: [{ vars: { message: a } }]\n", "line 2: `tests` is no list"),
        ("prompts: [\"{{message}}\"]\ntests:\n  - vars: { message: a }\nteste: 1\n", "teste"),
    ] {
        std::fs::write(&suite, text).unwrap();
        let (done, said) = add(other, &[]);
        assert!(!done && said.contains(why), "{said}");
        assert_eq!(read(), text);
    }
    let (done, said) = add("chatcmpl-00000000000000000000000000000000", &[]);
    assert!(!done && said.contains("no such answer is kept"), "{said}");
}
