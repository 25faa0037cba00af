use std::path::Path;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::ids::Weight;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn read(text: &str) -> Result<Config, ConfigErrors> {
    let text = text.replace("DIGEST", DIGEST);
    parse(&text, Path::new("/etc/sb.yaml"), &|name| (name == "KEY").then(|| "secret-1".to_owned()))
}

fn errors(text: &str) -> String {
    read(text).expect_err("the config was taken").to_string()
}

const GOOD: &str = r#"
server: { listen: 127.0.0.1:9000, admin: 127.0.0.1:9001, body_limit: 1MiB, request_timeout: 90s, api_keys: ["${KEY}"] }
engine: { max_running: 8, threads: 2 }
models:
  support-assistant:
    sticky_header: X-User-Id
    versions:
      v1: { image: models/v1, digest: "DIGEST" }
      v2: { image: "hf://org/name@0123456789abcdef0123456789abcdef01234567", digest: "DIGEST", residency: cold }
      v3: { image: /models/v3, digest: "DIGEST", residency: hot }
    route: { v1: 97.5, v3: "2.5%" }
    engine: { queue: 4, prefix_cache: false }
"#;

#[test]
fn a_full_config_is_read_with_defaults_and_overrides() {
    let config = read(GOOD).unwrap();
    assert_eq!(config.server.body_limit, 1 << 20);
    assert_eq!(config.server.request_timeout.as_secs(), 90);
    assert_eq!(config.server.store, Path::new("/etc/.switchback/state.db"));
    assert_eq!(config.server.api_keys[0].expose(), "secret-1");
    assert!(!format!("{config:?}").contains("secret-1"));
    assert_eq!(config.threads.map(std::num::NonZero::get), Some(2));
    let model = &config.models[&"support-assistant".parse().unwrap()];
    assert_eq!(model.sticky_header.as_deref(), Some("x-user-id"));
    assert_eq!(model.engine.max_running, 8);
    assert_eq!((model.engine.queue, model.engine.prefix_cache), (4, false));
    assert_eq!(model.versions[&"v1".parse().unwrap()].image, ImageRef::Local("/etc/models/v1".into()));
    assert_eq!(model.versions[&"v2".parse().unwrap()].residency, Residency::Cold);
    assert_eq!(model.route[&"v3".parse().unwrap()], Weight::from_percent(2.5).unwrap());
}

#[test]
fn one_version_needs_no_route_and_dev_mode_no_digest() {
    let config = read("server: { mode: dev }\nmodels: { m: { versions: { v1: { image: a } } } }").unwrap();
    let model = &config.models[&"m".parse().unwrap()];
    assert_eq!(model.route[&"v1".parse().unwrap()], Weight::FULL);
}

#[test]
fn version_names_that_look_like_numbers_stay_as_written() {
    let config = read("server: { mode: dev }\nmodels: { m: { versions: { 1.10: { image: a }, 2: { image: b } }, route: { 1.10: 100 } } }").unwrap();
    let model = &config.models[&"m".parse().unwrap()];
    assert!(model.route.contains_key(&"1.10".parse().unwrap()));
}

#[test]
fn every_mistake_is_reported_at_once() {
    assert_snapshot!(errors(r#"
server:
  listen: localhost
  admin: 127.0.0.1:8080
  lisen: 1
  body_limit: 2
  request_timeout: 5 minutes
  mode: fast
  api_keys: ["${NOPE}", "a ${KEY}", 7]
engine: { kv_tokens: 8, max_running: 600, threads: 0, kv_cache: 9 }
models:
  "bad name": { versions: { v1: { image: x, digest: "DIGEST" } } }
  support:
    sticky_header: "x user"
    sticky_header: x-user
    versions:
      v1: { image: "hf://org/name@main", digest: "DIGEST" }
      v2: { image: s3://bucket, digest: sha256:12 }
      v3: { residency: warm }
      v4: { image: m, digest: "DIGEST", residency: cold }
    route: { v1: 50, v22: 20, v4: 10, v3: 101 }
    engine: { threads: 2 }
  empty:
"#), @"");
}

#[test]
fn weights_that_do_not_sum_to_100_say_the_sum() {
    assert_snapshot!(errors(r#"
server: { mode: dev, listen: "0.0.0.0:80", admin: "127.0.0.1:80" }
models:
  a: { versions: { v1: { image: x }, v2: { image: y } }, route: { v1: 90, v2: 5.5 } }
  b: { versions: { v1: { image: x }, v2: { image: y } } }
  c: { versions: { v1: { image: "hf://org/name" } } }
"#), @"");
}

#[test]
fn files_that_are_no_config_say_so() {
    assert_snapshot!(errors(""), @"");
    assert_snapshot!(errors("models: [1, 2]"), @"");
    assert_snapshot!(errors("just a text"), @"");
    assert_snapshot!(errors("a: b: c"), @"");
    assert_snapshot!(errors("server: { listen: 1\n"), @"");
    let missing = load(Path::new("/nowhere/sb.yaml")).unwrap_err();
    assert_snapshot!(missing, @"");
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn no_damage_to_a_good_file_panics(cut in 0..GOOD.len(), len in 0_usize..40, put in "[ -~\n]{0,12}") {
        let end = (cut + len).min(GOOD.len());
        let text = format!("{}{put}{}", &GOOD[..cut], &GOOD[end..]);
        if let Err(e) = read(&text) {
            prop_assert!(!e.errors.is_empty());
        }
    }

    #[test]
    fn no_depth_panics(depth in 0_usize..2000) {
        let _ = read(&"[".repeat(depth));
        let _ = read(&"{a: ".repeat(depth));
    }
}
