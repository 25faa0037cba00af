//! Any bytes as the body of a request to the public router: an answer or an error of the client's, never a 500.
//! The first byte chooses the endpoint and whether a prompt with variables goes around. A body that is an object is for
//! the one model there is, so that the bytes that follow are not spent on guessing its name.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use libfuzzer_sys::fuzz_target;
use switchback::api::{App, RunningApp, public_router};
use tokio::runtime::Runtime;
use tower::ServiceExt;

const ENDPOINTS: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/v1/feedback"];

/// The version with a prompt that has variables of each type.
const PROMPT: &str = "---\nvariables:\n  tone: { type: string, default: kind }\n  n: { type: number, default: 1 }\n\
    \x20 topics: { type: list, default: [] }\n---\nBe {{ tone }} {{ n }} {{ topics | join(', ') }}.\n";

struct Server {
    runtime: Runtime,
    router: Router,
    _app: RunningApp,
}

/// The demo's v1 behind the public router. Its cache holds 64 tokens, so that no answer is long.
fn start() -> Server {
    let folder = tempfile::tempdir().expect("a temporary folder").keep();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/v1");
    std::fs::write(folder.join("toned.md"), PROMPT).expect("a prompt");
    let text = format!(
        "server: {{ mode: dev, listen: '127.0.0.1:0', admin: '127.0.0.1:0', store: state.db, images: images }}\n\
         engine: {{ kv_tokens: 64 }}\n\
         models:\n  desk:\n    versions:\n      v1: {{ image: {image:?}, residency: hot }}\n\
         \x20     toned: {{ image: {image:?}, prompt: toned.md, residency: hot }}\n    route: {{ v1: 100 }}\n\
         \x20   checks: [{{ type: feedback }}]\n"
    );
    let config = switchback::config::parse(&text, &folder.join("switchback.yaml"), &|_| None);
    let config = config.expect("a configuration");
    let runtime = Runtime::new().expect("a runtime");
    let server = config.server.clone();
    let app = runtime.block_on(async {
        let mut app = App::start(config).await.expect("the server starts");
        app.loaded().await;
        app
    });
    assert!(app.gateway.not_ready().is_empty(), "the demo does not load: {:?}", app.gateway.not_ready());
    Server { router: public_router(app.gateway.clone(), &server), runtime, _app: app }
}

/// The body with the name of a model or version in it, if it is an object.
fn named(body: &[u8], name: &str) -> Vec<u8> {
    match serde_json::from_slice(body) {
        Ok(serde_json::Value::Object(mut object)) => {
            object.insert("model".to_owned(), name.into());
            serde_json::Value::Object(object).to_string().into_bytes()
        }
        _ => body.to_vec(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let Some((choice, body)) = bytes.split_first() else { return };
    let Server { runtime, router, .. } = SERVER.get_or_init(start);
    let path = ENDPOINTS[usize::from(*choice) % ENDPOINTS.len()];
    let body = match path {
        "/v1/feedback" => body.to_vec(),
        _ if choice & 0x80 == 0 => named(body, "desk"),
        _ => named(body, "desk@toned"),
    };
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(Body::from(body))
        .expect("a request");
    runtime.block_on(async {
        let answer = router.clone().oneshot(request).await.expect("the router never fails");
        assert_ne!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        to_bytes(answer.into_body(), usize::MAX).await.expect("the answer ends");
    });
});
