//! Prompts as versions: around conversations, pinned, frozen, sharing weights, and rolled out like any other change.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::customers::Customers;
use common::{Server, with};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use switchback::demo::held_out;

const CHAT: &str = "/v1/chat/completions";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn image() -> impl std::fmt::Display {
    repository().join("models/v1").display().to_string()
}

/// A prompt that the repository ships.
fn shipped(name: &str) -> PathBuf {
    repository().join("prompts/support").join(name)
}

/// The demo's v1, once bare and once with each of these prompts; all of them hot.
async fn desk(prompts: &[(&str, &Path)]) -> Server {
    desk_in(tempfile::tempdir().unwrap(), prompts, "").await
}

async fn desk_in(folder: tempfile::TempDir, prompts: &[(&str, &Path)], policies: &str) -> Server {
    let image = image();
    let version = |(name, file): &(&str, &Path)| {
        format!("      {name}: {{ image: {image}, prompt: {} }}\n", file.display())
    };
    let versions = prompts.iter().map(version).collect::<Vec<_>>().concat();
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images, \
         request_timeout: 10s }}\n\
         models:\n  desk:\n    versions:\n      bare: {{ image: {image} }}\n{versions}\
         \x20   route: {{ {}: 100 }}\n    checks:\n      - is-json\n      - type: json-schema\n        name: shape\n        schema:\n\
         \x20         type: object\n          required: [intent, product, order_id, priority, reply]\n\
         \x20         properties: {{ intent: {{ type: string, pattern: \"^[a-z_]+$\" }}, product: {{ type: string }} }}\n\
         {policies}",
        prompts[0].0
    );
    let config = folder.path().join("switchback.yaml");
    std::fs::write(&config, text).unwrap();
    common::serve(folder, &config).await
}

fn says(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

/// What the model reads of a request for a version.
async fn read_by(server: &Server, version: &str, members: Value) -> String {
    let request = with(says("hi"), json!({"model": format!("desk@{version}"), "return_token_strs": true}));
    let answer = server.ask("/tokenize", &with(request, members)).await;
    answer["token_strs"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect()
}

/// The error of a request that is refused as the client's fault.
async fn refused(server: &Server, path: &str, version: &str, members: Value) -> Value {
    let request = with(says("hi"), json!({"model": format!("desk@{version}")}));
    let response = server.post(path, &with(request, members)).await;
    let status = response.status();
    let mut body: Value = response.json().await.unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    body["error"].take()
}

async fn answer(server: &Server, version: &str, members: Value) -> (Value, Value) {
    let request = with(says("Where is my tent?"), json!({"model": format!("desk@{version}")}));
    let mut answer = server.ask(CHAT, &with(request, members)).await;
    (answer["choices"][0].take(), answer)
}

async fn version(server: &Server, name: &str) -> Value {
    let (_, models) = server.admin(Method::GET, "/admin/models", None).await;
    let versions = models["models"][0]["versions"].as_array().unwrap().clone();
    versions.into_iter().find(|v| v["version"] == name).unwrap()
}

fn sha256(bytes: impl AsRef<[u8]>) -> String {
    switchback::ids::Digest::from_bytes(Sha256::digest(bytes).into()).hex()
}

const TONED: &str = "---\nvariables:\n  tone: string\n  topics: { type: list, default: [orders] }\nexamples:\n\
    \x20 - { user: a, assistant: b }\n---\nBe {{ tone }} about {{ topics | join(' and ') }}.\n";

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_prompt_goes_around_a_conversation_and_its_variables_come_from_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let toned = written(folder.path(), "toned.md", TONED);
    let server = desk(&[("toned", &toned)]).await;
    let variables = json!({"prompt_variables": {"tone": "{{kind}}", "topics": ["tents", "tea"]}});
    let around = "<|im_start|>system\nBe {{kind}} about tents and tea.<|im_end|>\n<|im_start|>user\na<|im_end|>\n\
        <|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(read_by(&server, "toned", variables).await, around);
    let instructed = json!({"prompt_variables": {"tone": "calm"},
        "messages": [{"role": "system", "content": "No jokes."}, {"role": "user", "content": "hi"}]});
    let text = read_by(&server, "toned", instructed).await;
    assert!(text.starts_with("<|im_start|>system\nBe calm about orders.\n\nNo jokes.<|im_end|>\n"), "{text}");
    assert_eq!(
        read_by(&server, "bare", json!({"prompt_variables": {}})).await,
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    );

    for (given, param, code) in [
        (json!({}), "prompt_variables.tone", "missing_required_parameter"),
        (json!({"tone": 1}), "prompt_variables.tone", "invalid_type"),
        (json!({"tone": "calm", "topcis": []}), "prompt_variables.topcis", "unknown_parameter"),
        (json!("calm"), "prompt_variables", "invalid_type"),
    ] {
        for path in [CHAT, "/tokenize"] {
            let error = refused(&server, path, "toned", json!({"prompt_variables": given})).await;
            assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{error}");
        }
    }
    let error = refused(&server, CHAT, "toned", json!({})).await;
    insta::assert_snapshot!(error["message"].as_str().unwrap(), @"`prompt_variables.tone`: the prompt needs this variable; give a string (`desk@toned`)");
    let error = refused(&server, CHAT, "bare", json!({"prompt_variables": {"tone": "calm"}})).await;
    insta::assert_snapshot!(error["message"].as_str().unwrap(), @"`prompt_variables`: `desk@bare` has no prompt; leave them out");
    let error = refused(
        &server,
        "/tokenize",
        "toned",
        json!({"messages": null, "prompt": "x", "prompt_variables": {"tone": "x"}}),
    )
    .await;
    assert_eq!(error["param"], "prompt_variables", "{error}");
    server.idle().await;
}

#[tokio::test]
async fn a_template_that_a_request_would_keep_busy_is_stopped_and_the_server_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let text = "---\nvariables: { n: { type: number, default: 1 } }\n---\n\
        {% for a in range(n) %}{% for b in range(n) %}x{% endfor %}{% endfor %}";
    let busy = written(folder.path(), "busy.md", text);
    let endless = written(folder.path(), "endless.md", &text.replace("default: 1", "default: 99999"));
    let server = desk(&[("busy", &busy), ("endless", &endless)]).await;
    let error = refused(&server, CHAT, "busy", json!({"prompt_variables": {"n": 99_999}})).await;
    assert_eq!(error["param"], "prompt_variables", "{error}");
    assert!(error["message"].as_str().unwrap().contains("bounds of work and memory"), "{error}");
    let endless = version(&server, "endless").await;
    let why = endless["residency"]["why"].as_str().unwrap();
    assert!(why.contains("endless.md:4: the template was stopped"), "{why}");
    assert_eq!(answer(&server, "busy", json!({"max_tokens": 4})).await.0["finish_reason"], "length");
}

/// A server that a template can end must be a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_template_is_the_fault_of_its_version_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let nest = |with: &str| {
        let put =
            |name: &str| format!("{{% set ns.{name} = {} %}}", with.replace('_', &format!("ns.{name}")));
        let (x, y) = (put("x"), put("y"));
        format!("{{% set ns = namespace(x=['a'], y=['a']) %}}{{% for i in range(n) %}}{x}{y}{{% endfor %}}")
    };
    // what each is, what it takes to set it off, and what it is refused for: one that nests and is let go without harm is none
    let poisons = [
        ("deep", nest("[[[[[[[[_]]]]]]]]"), 4000, None),
        ("deeper", nest("[[[[[[[[_]]]]]]]]"), 99_000, Some("bounds of work")),
        ("keyed", nest("{'a': namespace(a=_)}") + "{{ ns.x == ns.y }}", 4000, None),
        ("printed", nest("[_]") + "{{ ns.x }}", 4000, Some("bounds of work")),
        // each holds itself many times, and is compared item by item
        ("doubled", nest("[_, _]") + "{{ ns.x == ns.y }}", 60, Some("bounds of work")),
        (
            "loops",
            "{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}".to_owned(),
            99_000,
            Some("bounds of work"),
        ),
        (
            "giant",
            "{% for a in range(n) %}{{ 'aaaaaaaaaa' * 20 }}{% endfor %}".to_owned(),
            99_000,
            Some("bounds of work"),
        ),
        ("reaches", "{% if n > 1 %}{{ ''.__class__.__mro__ }}{% endif %}".to_owned(), 2, Some("undefined")),
        (
            "formats",
            "{% if n > 1 %}{{ '{0.__class__}'.format(n) }}{% endif %}".to_owned(),
            2,
            Some("prompt failed"),
        ),
    ];
    let (mut versions, image) = (String::new(), image());
    for (name, text, _, _) in &poisons {
        let front = "---\nvariables: { n: { type: number, default: 1 } }\n---\n";
        let file = written(folder.path(), &format!("{name}.md"), &format!("{front}{text}"));
        versions += &format!("      {name}: {{ image: {image}, prompt: {} }}\n", file.display());
    }
    let config = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  desk:\n    versions:\n      bare: {{ image: {image} }}\n{versions}    route: {{ bare: 100 }}\n"
    );
    let config = written(folder.path(), "switchback.yaml", &config);
    let server = common::process::Process::serve(&config);
    let client = common::client();
    let models = client.get(format!("{}/admin/models", server.admin));
    let hot = || async {
        let models: Value = models.try_clone().unwrap().send().await.unwrap().json().await.unwrap();
        let versions = models["models"][0]["versions"].as_array().unwrap();
        versions.iter().all(|version| version["residency"]["state"] == "hot")
    };
    let until = std::time::Instant::now() + Duration::from_secs(50);
    while !hot().await {
        assert!(std::time::Instant::now() < until, "the versions never get hot");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ask = |version: &str, members: Value| {
        let request = with(says("hi"), json!({"model": format!("desk@{version}"), "max_tokens": 2}));
        client.post(format!("{}{CHAT}", server.public)).json(&with(request, members)).send()
    };
    for (name, _, n, why) in &poisons {
        let poisoned = tokio::spawn(ask(name, json!({"prompt_variables": {"n": n}})));
        let other = ask("bare", json!({})).await.unwrap();
        assert_eq!(other.status(), StatusCode::OK, "{name}");
        let response = poisoned.await.unwrap().expect(name);
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        match why {
            // its text is empty, or short
            None => assert_eq!(status, StatusCode::OK, "{name}: {body}"),
            Some(why) => {
                assert_eq!(
                    (status, &body["error"]["param"]),
                    (StatusCode::BAD_REQUEST, &json!("prompt_variables")),
                    "{name}: {body}"
                );
                assert!(body["error"]["message"].as_str().unwrap().contains(why), "{name}: {body}");
            }
        }
        let harmless = ask(name, json!({"prompt_variables": {"n": 1}})).await.unwrap();
        assert_eq!(harmless.status(), StatusCode::OK, "{name}");
    }
}

#[tokio::test]
async fn sampling_is_the_clients_word_then_the_prompts_then_the_images() {
    let folder = tempfile::tempdir().unwrap();
    let short =
        written(folder.path(), "short.md", "---\nmax_tokens: 5\nstop: [intent]\ntemperature: 2\n---\n");
    let long = written(folder.path(), "long.md", "---\nmax_tokens: 900000\n---\n");
    let server = desk(&[("short", &short), ("long", &long)]).await;
    let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
    // the image is greedy, the prompt is wild, and the client has the last word
    let (plain, _) = answer(&server, "bare", json!({"max_tokens": 5})).await;
    let greedy = json!({"temperature": 0, "stop": []});
    let (choice, whole) = answer(&server, "short", greedy.clone()).await;
    assert_eq!((text(&choice), &choice["finish_reason"]), (text(&plain), &json!("length")));
    assert_eq!(whole["usage"]["completion_tokens"], 5);
    let (choice, _) = answer(&server, "short", json!({"temperature": 0})).await;
    assert_eq!((text(&choice).as_str(), &choice["finish_reason"]), ("{\"", &json!("stop")));
    let (_, whole) = answer(&server, "short", with(greedy, json!({"max_completion_tokens": 7}))).await;
    assert_eq!(whole["usage"]["completion_tokens"], 7);
    let mut wild = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let (choice, _) = answer(&server, "short", json!({"seed": seed, "stop": [], "max_tokens": 20})).await;
        wild.insert(text(&choice));
    }
    assert!(wild.len() > 1, "the prompt's temperature is not used: {wild:?}");
    // a prompt's limit that does not fit the context is cut to what does
    let (choice, _) = answer(&server, "long", json!({})).await;
    assert_eq!(choice["finish_reason"], "stop");

    // a text is the client's own: nothing of the prompt is in it
    let completion =
        |version: &str| json!({"model": format!("desk@{version}"), "prompt": "intent", "seed": 1});
    let [bare, short] = [completion("bare"), completion("short")];
    let (bare, short) =
        (server.ask("/v1/completions", &bare).await, server.ask("/v1/completions", &short).await);
    assert_eq!(bare["choices"], short["choices"]);
    assert_ne!(bare["system_fingerprint"], short["system_fingerprint"]);
    let error = refused(
        &server,
        "/v1/completions",
        "short",
        json!({"messages": null, "prompt": "x", "prompt_variables": {}}),
    )
    .await;
    assert_eq!(error["code"], "unknown_parameter", "{error}");
}

#[tokio::test]
async fn versions_that_differ_in_their_prompt_share_all_weights_and_have_digests_of_their_own() {
    let (v1, v3) = (shipped("v1.md"), shipped("v3.md"));
    let server = desk(&[("v1", &v1), ("v3", &v3)]).await;
    let mut digests = std::collections::BTreeSet::new();
    for (name, file) in [("v1", &v1), ("v3", &v3)] {
        let version = version(&server, name).await;
        let prompt = sha256(std::fs::read(file).unwrap());
        let wanted = json!({"file": file, "digest": format!("sha256:{prompt}")});
        assert_eq!(version["prompt"], wanted);
        // the formula of docs/prompts.md
        let image = version["digest"].as_str().unwrap().trim_start_matches("sha256:");
        let digest = sha256(format!("switchback-version-v1\nimage {image}\nprompt {prompt}\n"));
        assert_eq!(version["version_digest"], format!("sha256:{digest}"));
        let (_, whole) = answer(&server, name, json!({"max_tokens": 1})).await;
        assert_eq!(whole["system_fingerprint"], format!("fp_{}", &digest[..12]));
        digests.insert(digest);
    }
    assert_eq!(digests.len(), 2);
    // one of the three brought the weights, the others nothing
    let mut brought = 0;
    for name in ["v1", "v3", "bare"] {
        let version = version(&server, name).await;
        let [all, shared] = ["weight_bytes", "shared_bytes"].map(|key| version[key].as_u64().unwrap());
        assert!(shared == 0 || shared == all, "{version}");
        brought += u64::from(shared == 0);
    }
    assert_eq!(brought, 1);
    let bare = version(&server, "bare").await;
    assert_eq!((&bare["prompt"], &bare["version_digest"]), (&Value::Null, &bare["digest"]));
}

#[tokio::test]
async fn versions_that_differ_in_their_prompt_share_an_engine_and_leave_it_apart() {
    let v3 = shipped("v3.md");
    let server = desk(&[("v3", &v3)]).await;
    let counted = async |metric: &str, version: &str| {
        server.counted(&format!("switchback_engine_{metric}{{model=\"desk\",version=\"{version}\"}}")).await
    };
    answer(&server, "bare", json!({"max_tokens": 3})).await;
    answer(&server, "v3", json!({"max_tokens": 5})).await;
    server.idle().await;
    assert_eq!(counted("generated_tokens_total", "bare").await, 3);
    assert_eq!(counted("generated_tokens_total", "v3").await, 5);
    let steps = counted("steps_total", "bare").await;
    assert!(steps >= 8, "{steps}");
    assert_eq!(steps, counted("steps_total", "v3").await, "the steps of one engine");

    let (status, body) = server.admin(Method::POST, "/admin/models/desk/versions/bare/unload", None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    answer(&server, "v3", json!({"max_tokens": 2})).await;
    server.idle().await;
    assert!(counted("steps_total", "v3").await > steps, "it goes on without its sibling");
    let (status, _) = server.admin(Method::POST, "/admin/models/desk/versions/bare/load", None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(counted("steps_total", "bare").await, counted("steps_total", "v3").await, "together again");
}

#[test]
fn the_shipped_example_pins_what_is_there() {
    let config = switchback::config::load(&repository().join("prompts/switchback.yaml")).unwrap();
    let model = config.models.values().next().unwrap();
    assert_eq!((model.versions.len(), model.unpinned().count()), (3, 0));
    for version in model.versions.values() {
        let prompt = version.prompt.as_ref().unwrap();
        switchback::prompt::Prompt::read(&prompt.file, prompt.digest).unwrap();
    }
}

#[tokio::test]
async fn a_prompt_is_frozen_while_it_is_hot_and_a_changed_one_is_refused_like_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), "v1.md", "Be kind.\n");
    let digest = sha256("Be kind.\n");
    let image = image();
    let text = format!(
        "server: {{ mode: dev, listen: 127.0.0.1:0, admin: 127.0.0.1:0, store: state.db, images: images }}\n\
         models:\n  desk:\n    versions:\n      loose: {{ image: {image}, prompt: v1.md }}\n\
         \x20     pinned: {{ image: {image}, prompt: v1.md, prompt_digest: \"sha256:{digest}\" }}\n\
         \x20     bare: {{ image: {image} }}\n    route: {{ bare: 100 }}\n"
    );
    let config = written(folder.path(), "switchback.yaml", &text);
    let server = common::serve(folder, &config).await;
    std::fs::write(&file, "Be unkind.\n").unwrap();
    for name in ["loose", "pinned"] {
        assert!(read_by(&server, name, json!({})).await.contains("\nBe kind.<"), "{name}");
        assert_eq!(version(&server, name).await["prompt"]["digest"], format!("sha256:{digest}"));
    }
    let change = async |name: &str, what: &str| {
        server.admin(Method::POST, &format!("/admin/models/desk/versions/{name}/{what}"), None).await
    };
    for name in ["loose", "pinned"] {
        assert_eq!(change(name, "unload").await.0, 200);
    }
    let (status, loaded) = change("loose", "load").await;
    let found = sha256("Be unkind.\n");
    assert_eq!((status.as_u16(), &loaded["prompt"]["digest"]), (200, &json!(format!("sha256:{found}"))));
    let (status, error) = change("pinned", "load").await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (422, &json!("load_failed")), "{error}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains(&digest) && message.contains(&found) && message.contains("v1.md"), "{message}");
    std::fs::remove_file(&file).unwrap();
    let (_, error) = change("pinned", "load").await;
    assert!(error["error"]["message"].as_str().unwrap().contains("cannot read the prompt"), "{error}");
}

/// Alpha is small, as this test runs often. A canary is promoted early once it has been seen for a request's timeout,
/// which is short here.
const QUICK: &str = "policies:\n  quick:\n    steps: [{setWeight: 50}, {pause: {duration: 60s}}]\n\
    \x20   early_promote: true\n    margin_pp: 10\n    alpha: 0.001\n    power: 0.9\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_needs_what_clients_do_not_send_is_aborted() {
    let folder = tempfile::tempdir().unwrap();
    let toned = written(folder.path(), "toned.md", TONED);
    let v1 = shipped("v1.md");
    let server = desk_in(folder, &[("v1", &v1), ("toned", &toned)], QUICK).await;
    let body = json!({"canary": "toned", "policy": "quick"});
    let (status, begun) = server.admin(Method::POST, "/admin/models/desk/rollout", Some(body)).await;
    assert_eq!(status, 200, "{begun}");
    let (mut refusals, mut round) = (0, 0);
    let rollout = loop {
        round += 1;
        let asked = (0..20).map(|i| {
            let user = format!("customer-{round}-{i}");
            let user = json!({"model": "desk", "user": user, "max_tokens": 1});
            let (client, url, request) = (&server.client, server.url(CHAT), with(says("hi"), user));
            async move { client.post(url).json(&request).send().await.unwrap().status() }
        });
        let statuses = futures::future::join_all(asked).await;
        refusals += statuses.iter().filter(|status| **status == StatusCode::BAD_REQUEST).count();
        let (_, mut answer) = server.admin(Method::GET, "/admin/models/desk/rollout", None).await;
        if answer["rollout"]["waits_for"] == "nothing" {
            break answer["rollout"].take();
        }
        assert!(refusals < 2_000, "it does not end: {answer}");
    };
    assert_eq!(rollout["phase"], "aborted", "{rollout}");
    let finding = rollout["finding"].as_str().unwrap();
    assert!(["`finished`: ", "`overall`: "].iter().any(|test| finding.contains(test)), "{finding}");
    assert_eq!(weights(&server).await, json!({"v1": 100}));
}

/// Starts a rollout, and customers ask until it has ended. No request fails.
async fn rolled_out(server: &Server, canary: &str) -> Value {
    let body = json!({"canary": canary, "policy": "quick", "reason": "a new prompt"});
    let (status, begun) = server.admin(Method::POST, "/admin/models/desk/rollout", Some(body)).await;
    assert_eq!(status, 200, "{begun}");
    let cases = held_out(17, 500);
    let question = move |i: u64| {
        let said = says(&cases[i as usize % cases.len()].message);
        with(said, json!({"model": "desk", "user": format!("customer-{i}")}))
    };
    let (client, url, think) = (server.client.clone(), server.url(CHAT), Duration::ZERO);
    let customers = Customers { client, url, at_once: 8, think, patience: Duration::from_secs(55), question };
    let rollout = async || {
        let (_, mut answer) = server.admin(Method::GET, "/admin/models/desk/rollout", None).await;
        answer["rollout"].take()
    };
    let ended = async || Some(rollout().await).filter(|rollout| rollout["waits_for"] == "nothing");
    let (Some(ended), _) = customers.ask_until(ended).await else {
        panic!("it does not end: {}", rollout().await);
    };
    ended
}

async fn weights(server: &Server) -> Value {
    server.admin(Method::GET, "/admin/models/desk/route", None).await.1["weights"].take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_that_hurts_is_aborted_by_itself_and_one_that_does_not_is_promoted() {
    let folder = tempfile::tempdir().unwrap();
    let thrifty =
        std::fs::read_to_string(shipped("v1.md")).unwrap().replace("max_tokens: 96", "max_tokens: 24");
    let thrifty = written(folder.path(), "thrifty.md", &thrifty);
    let (v1, v2, v3) = (shipped("v1.md"), shipped("v2.md"), shipped("v3.md"));
    let prompts: [(&str, &Path); 4] = [("v1", &v1), ("v2", &v2), ("v3", &v3), ("thrifty", &thrifty)];
    let server = desk_in(folder, &prompts, QUICK).await;

    // an example that was meant well: the model mixes it into its answers
    let rollout = rolled_out(&server, "v2").await;
    assert_eq!(rollout["phase"], "aborted", "{rollout}");
    assert!(rollout["finding"].as_str().unwrap().contains("`shape`: "), "{rollout}");
    assert_eq!(weights(&server).await, json!({"v1": 100}));

    // a limit that was meant to save: it cuts the JSON off
    let rollout = rolled_out(&server, "thrifty").await;
    assert_eq!(rollout["phase"], "aborted", "{rollout}");
    let finding = rollout["finding"].as_str().unwrap();
    assert!(["`is-json`: ", "`shape`: "].iter().any(|check| finding.contains(check)), "{rollout}");
    assert_eq!(weights(&server).await, json!({"v1": 100}));

    let rollout = rolled_out(&server, "v3").await;
    assert_eq!(rollout["phase"], "promoted", "{rollout}");
    assert_eq!(weights(&server).await, json!({"v3": 100}));
    let (status, _) = server.admin(Method::POST, "/admin/models/desk/rollback", Some(json!({}))).await;
    assert_eq!(status, 200);
    assert_eq!(weights(&server).await, json!({"v1": 100}), "and it can be rolled back");
}
