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
engine: { max_running: 8, threads: 2, device: "cuda:1" }
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
    assert_eq!(config.server.store, StoreAt::File("/etc/.switchback/state.db".into()));
    assert_eq!(config.server.api_keys[0].expose(), "secret-1");
    assert!(!format!("{config:?}").contains("secret-1"));
    assert_eq!(config.threads.map(std::num::NonZero::get), Some(2));
    assert_eq!(config.device, DeviceChoice::Cuda(1));
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
fn in_dev_mode_a_folder_without_a_digest_is_unpinned_and_a_commit_is_not() {
    let text = r#"
server: { mode: dev }
models:
  m:
    versions:
      v1: { image: a }
      v2: { image: a, digest: "DIGEST" }
      v3: { image: "hf://org/name@0123456789abcdef0123456789abcdef01234567" }
    route: { v1: 100 }
"#;
    let config = read(text).unwrap();
    let model = &config.models[&"m".parse().unwrap()];
    assert_eq!(model.unpinned().map(crate::ids::VersionName::as_str).collect::<Vec<_>>(), ["v1"]);
}

#[test]
fn a_version_with_a_prompt_is_pinned_by_two_digests() {
    let text = r#"
models:
  m:
    versions:
      v1: { image: a, digest: "DIGEST", prompt: prompts/v1.md, prompt_digest: "DIGEST" }
    route: { v1: 100 }
"#;
    let config = read(text).unwrap();
    let version = &config.models[&"m".parse().unwrap()].versions[&"v1".parse().unwrap()];
    let file = Path::new("/etc/prompts/v1.md").to_owned();
    assert_eq!(version.prompt, Some(PromptRef { file, digest: DIGEST.parse().ok() }));
    assert_eq!(version.pinning(), Pinning::Pinned);
    let loose = text.replace(", prompt_digest: \"DIGEST\"", "");
    assert_snapshot!(errors(&loose), @"/etc/sb.yaml:5: models.m.versions.v1.prompt_digest: missing; add the digest that `switchback prompt show` prints, or set server.mode to dev");
    let config = read(&format!("server: {{ mode: dev }}{loose}")).unwrap();
    assert_eq!(config.models[&"m".parse().unwrap()].unpinned().count(), 1);
    assert_snapshot!(errors(&text.replace("prompt: prompts/v1.md, ", "")), @"/etc/sb.yaml:5: models.m.versions.v1.prompt_digest: the version has no prompt; add `prompt:` or remove this");
    assert_snapshot!(errors(&text.replace("prompt_digest: \"DIGEST\"", "prompt_digest: 7")), @"/etc/sb.yaml:5: models.m.versions.v1.prompt_digest: found the number 7; write a text, in quotes");
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
engine: { kv_tokens: 8, max_running: 600, threads: 0, device: "gpu:1", kv_cache: 9 }
models:
  "bad name": { versions: { v1: { image: x, digest: "DIGEST" } } }
  support:
    sticky_header: "x user"
    sticky_header: x-user
    versions:
      v1: { image: "hf://org/name@main", digest: "DIGEST" }
      v2: { image: s3://bucket, digest: sha256:12 }
      v3: { residency: lukewarm }
      v4: { image: m, digest: "DIGEST", residency: cold }
    route: { v1: 50, v22: 20, v4: 10, v3: 101 }
    engine: { threads: 2, device: cpu }
  empty:
"#), @r#"
/etc/sb.yaml:3: server.listen: "localhost" is not an address; write ip:port, such as 127.0.0.1:8080
/etc/sb.yaml:4: server.admin: 127.0.0.1:8080 and server.listen 127.0.0.1:8080 use the same port; give the admin API a port of its own
/etc/sb.yaml:5: server.lisen: unknown key; did you mean `listen`?
/etc/sb.yaml:6: server.body_limit: the number 2 is not a size; write a number and B, KiB, MiB or GiB: 2MiB
/etc/sb.yaml:7: server.request_timeout: "5 minutes" is not a duration; write a number and ms, s, m or h: 30s
/etc/sb.yaml:8: server.mode: found "fast"; write production or dev
/etc/sb.yaml:9: server.api_keys[0]: the environment variable NOPE is not set; set NOPE or remove this entry
/etc/sb.yaml:9: server.api_keys[1]: a variable inside a longer text; write the whole entry as `${NAME}`
/etc/sb.yaml:9: server.api_keys[2]: not a text; put the key in quotes
/etc/sb.yaml:10: engine.kv_cache: unknown key; known here: kv_tokens, block_size, max_running, max_step_tokens, queue, prefix_cache, scheduling_policy, speculative_tokens, threads, device
/etc/sb.yaml:10: engine.kv_tokens: 8 is less than one block of 16; raise kv_tokens or lower block_size
/etc/sb.yaml:10: engine.max_step_tokens: 512 is less than max_running 600, and each running sequence takes one token per step; raise max_step_tokens or lower max_running
/etc/sb.yaml:10: engine.threads: found the number 0; give a whole number from 1 to 1024, or `auto`
/etc/sb.yaml:10: engine.device: found "gpu:1"; write auto, cpu, or cuda:N for GPU N, such as cuda:0
/etc/sb.yaml:12: models.bad name: "bad name" is not a usable name; use 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-', starting with a letter or digit
/etc/sb.yaml:14: models.support.sticky_header: "x user" is not a header name; write one such as x-user-id
/etc/sb.yaml:15: models.support.sticky_header: the key is written twice, first on line 14; keep one of the two
/etc/sb.yaml:17: models.support.versions.v1.image: revision "main" does not pin the model, so it may change under a running release; write the full commit: `hf://org/name@<40 hex digits>` (`switchback pull hf://org/name@main` prints the commit)
/etc/sb.yaml:18: models.support.versions.v2.image: s3:// is not a known source; give a folder, a GGUF file or `hf://org/name@<commit>`
/etc/sb.yaml:18: models.support.versions.v2.digest: "sha256:12" is not a digest; write `sha256:` and 64 lower-case hexadecimal digits; `switchback images add` prints it
/etc/sb.yaml:19: models.support.versions.v3.image: missing; give a folder, a GGUF file or `hf://org/name@<commit>`
/etc/sb.yaml:19: models.support.versions.v3.digest: missing; add the digest that `switchback images add` or `pull` prints, or set server.mode to dev
/etc/sb.yaml:19: models.support.versions.v3.residency: found "lukewarm"; write hot or warm or cold
/etc/sb.yaml:21: models.support.route.v22: the model has no such version; did you mean `v2`?
/etc/sb.yaml:21: models.support.route.v4: only a hot version can take traffic; set its residency to hot, or give it 0
/etc/sb.yaml:21: models.support.route.v3: the number 101 is not a weight; give a percentage from 0 to 100 with at most two decimals
/etc/sb.yaml:22: models.support.engine.threads: threads is the whole process's; set engine.threads instead
/etc/sb.yaml:22: models.support.engine.device: device is the whole process's; set engine.device instead
/etc/sb.yaml:23: models.empty.versions: the model has no version; add one: `v1: { image: models/v1 }`
"#);
}

#[test]
fn weights_that_do_not_sum_to_100_say_the_sum() {
    assert_snapshot!(errors(r#"
server: { mode: dev, listen: "0.0.0.0:80", admin: "127.0.0.1:80" }
models:
  a: { versions: { v1: { image: x }, v2: { image: y } }, route: { v1: 90, v2: 5.5 } }
  b: { versions: { v1: { image: x }, v2: { image: y } } }
  c: { versions: { v1: { image: "hf://org/name" } } }
"#), @r#"
/etc/sb.yaml:2: server.admin: 127.0.0.1:80 and server.listen 0.0.0.0:80 use the same port; give the admin API a port of its own
/etc/sb.yaml:4: models.a.route: the weights sum to 95.5; make them sum to 100
/etc/sb.yaml:5: models.b.route: missing; write `route: { v1: 100 }`
/etc/sb.yaml:6: models.c.versions.v1.image: a reference without a commit does not pin the model, so it may change under a running release; write the full commit: `hf://org/name@<40 hex digits>` (`switchback pull hf://org/name@main` prints the commit)
"#);
}

#[test]
fn files_that_are_no_config_say_so() {
    assert_snapshot!(errors(""), @r#"/etc/sb.yaml: models: no model is declared; add `models:` with at least one model and version"#);
    assert!(errors("models: {}").contains("no model is declared"));
    assert!(errors("server: {}").contains("no model is declared"));
    assert_snapshot!(errors("models: [1, 2]"), @r#"/etc/sb.yaml:1: models: found a list with 2 items; write a mapping of `key: value` lines"#);
    assert_snapshot!(errors("just a text"), @r#"/etc/sb.yaml:1: found "just a text"; write a mapping of `key: value` lines"#);
    assert_snapshot!(errors("a: b: c"), @r#"/etc/sb.yaml:1: the file is not readable YAML: mapping values are not allowed in this context at line 1, column 5; check the indentation, the colons and the quotes near this line"#);
    assert_snapshot!(errors("server: { listen: 1\n"), @r#"/etc/sb.yaml:1: the file is not readable YAML: unclosed bracket '{' at line 1, column 9; check the indentation, the colons and the quotes near this line"#);
    let missing = load(Path::new("/nowhere/sb.yaml")).unwrap_err();
    assert_snapshot!(missing, @r#"/nowhere/sb.yaml: cannot read the file: No such file or directory (os error 2); name a readable file with `--config`"#);
}

#[test]
fn a_lone_cold_version_has_no_route_by_default() {
    let text = "server: { mode: dev }\nmodels: { m: { versions: { v1: { image: a, residency: cold } } } }";
    assert!(errors(text).contains("models.m.route"));
}

#[test]
fn a_part_of_the_key_value_memory_is_no_larger_than_the_memory() {
    let text = |engine: &str, part: &str| {
        format!(
            "server: {{ mode: dev }}\nengine: {{ kv_tokens: {engine} }}\nmodels:\n  m:\n    versions:\n      v1: {{ image: a, kv_tokens: {part} }}\n"
        )
    };
    let config = read(&text("auto", "4096")).unwrap();
    let model = config.models.values().next().unwrap();
    assert_eq!(model.engine.kv_tokens, KvTokens::Auto);
    assert_eq!(model.versions.values().next().unwrap().kv_tokens, Some(4096));
    assert_snapshot!(errors(&text("64", "100")), @"/etc/sb.yaml:6: models.m.versions.v1.kv_tokens: 100 is more than the 64 that the model's versions share; lower it, leave it out for all of them, or raise engine.kv_tokens");
    assert_snapshot!(errors(&text("auto", "8")), @"/etc/sb.yaml:6: models.m.versions.v1.kv_tokens: 8 is less than one block of 16; raise kv_tokens or lower block_size");
    assert_snapshot!(errors(&text("many", "16")), @r#"/etc/sb.yaml:2: engine.kv_tokens: found "many"; give a whole number from 1 to 1073741824, or auto"#);
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

const POLICIES: &str = r#"
models: { desk: { versions: { v1: { image: models/v1, digest: "DIGEST" } } } }
policies:
  careful:
    steps: [{setMirrorRoute: {percentage: 20}}, {pause: {duration: 30m}}, {setWeight: 10}, {pause: {}}, {setWeight: 100}]
    margin_pp: 2.5
    alpha: 0.005
    power: 0.9
    min_samples: 100
    on_inconclusive: abort
    approval: manual
    early_promote: true
    guardrails:
      alpha: 0.002
      latency: { max_ratio: 1.5 }
      time_per_output_token: { quantile: 0.5, max_ratio: 2 }
      output_length: { max_change: 30% }
"#;

#[test]
fn a_policy_is_read_as_it_is_written() {
    let config = read(POLICIES).unwrap();
    let policy = &config.policies["careful"];
    let weight = |percent| Step::SetWeight(Weight::from_percent(percent).unwrap());
    let mirror = Step::SetMirrorRoute(Weight::from_percent(20.0).unwrap());
    let pause = Step::Pause(Pause::For(std::time::Duration::from_mins(30)));
    let until_resumed = Step::Pause(Pause::UntilResumed);
    assert_eq!(policy.steps, [mirror, pause, weight(10.0), until_resumed, weight(100.0)]);
    assert_eq!(
        (policy.margin.to_string(), policy.alpha.get(), policy.power.get()),
        ("2.5".into(), 0.005, 0.9)
    );
    assert_eq!((policy.min_samples, policy.on_inconclusive), (100, OnInconclusive::Abort));
    assert_eq!((policy.approval, policy.early_promote), (Approval::Manual, EarlyPromote::Yes));
    let Guardrails { alpha, times, output_length } = &policy.guardrails;
    let limits = times.iter().map(|(timing, l)| (timing.as_str(), l.quantile.get(), l.max_ratio.get()));
    let wanted = [("latency", 0.95, 1.5), ("time_per_output_token", 0.5, 2.0)];
    assert!(limits.eq(wanted) && alpha.get().to_string() == "0.002", "{:?}", policy.guardrails);
    assert_eq!(*output_length, RelativeChange::percent(30.0));
}

#[test]
fn guardrails_that_cannot_be_are_refused_with_line_and_fix() {
    assert_snapshot!(errors(
        r#"
models: { desk: { versions: { v1: { image: models/v1, digest: "DIGEST" } } } }
policies:
  odd:
    steps: [{setWeight: 5}]
    guardrails:
      alpha: 0
      latency: { quantile: 1, max_ratio: 1 }
      time_to_first_token: { quantile: 0 }
      time_per_output_token: fast
      output_length: { max_change: -5% }
      latencies: { max_ratio: 2 }
  none:
    steps: [{setWeight: 5}]
    guardrails: { output_length: {}, latency: { max_ratio: 2x, percentile: 95 } }
"#
    ));
}

#[test]
fn impossible_policies_are_refused_with_line_and_fix() {
    assert_snapshot!(errors(
        r#"
models: { desk: { versions: { v1: { image: models/v1, digest: "DIGEST" } } } }
policies:
  customer-facing: { steps: [{setWeight: 5}] }
  none: { margin_pp: 0, alpha: 1, power: 0 }
  falling: { steps: [{setWeight: 25}, {setWeight: 5}] }
  odd:
    steps:
      - pause: { duration: 5m }
      - setWeight: 120
      - { setWeight: 5, pause: {} }
      - {}
      - pause: { duration: soon }
      - weight: 5
    alpha: 0.5
    power: 0.4
    min_samples: 0
    on_inconclusive: guess
  text: { steps: fast }
  late: { steps: [{setWeight: 100}, {pause: {duration: 5m}}] }
  empty: { steps: [{setMirrorRoute: {percentage: }}, {setWeight: }, {setWeight: 5}, {pause: {duration: }}] }
  mirrors: { steps: [{setMirrorRoute: {percentage: 0}}, {setMirrorRoute: 50}, {setWeight: 5}, {setMirrorRoute: {}}] }
"#
    ));
}

#[test]
fn a_model_names_a_policy_that_there_is() {
    let model = |policy: &str| {
        format!(
            "models: {{ desk: {{ policy: {policy}, versions: {{ v1: {{ image: models/v1, digest: \"DIGEST\" }} }} }} }}\n\
             policies: {{ mine: {{ steps: [{{setWeight: 5}}, {{pause: {{}}}}] }} }}\n"
        )
    };
    for (name, steps) in [("mine", 2), ("internal-classifier", 3)] {
        let config = read(&model(name)).unwrap();
        assert_eq!(config.models.values().next().unwrap().policy.as_ref().unwrap().steps.len(), steps);
    }
    for (name, found) in [("hope", "there is no policy"), ("7", "the number 7"), ("", "nothing")] {
        let told = errors(&model(name));
        assert!(told.contains("/etc/sb.yaml:1: models.desk.policy: ") && told.contains(found), "{told}");
    }
}

#[test]
fn a_version_says_how_it_writes_calls_and_thoughts() {
    let version = |more: &str| {
        format!("server: {{ mode: dev }}\nmodels: {{ m: {{ versions: {{ v1: {{ image: a{more} }} }} }} }}")
    };
    let read = |more: &str| {
        let config = read(&version(more)).unwrap();
        let version = config.models.into_values().next().unwrap().versions.into_values().next().unwrap();
        (version.tool_parser, version.reasoning_parser)
    };
    assert_eq!(read(""), (None, ReasoningParser::None));
    let qwen = read(", tool_parser: hermes, reasoning_parser: qwen3");
    assert_eq!(qwen, (Some(ToolParser::Hermes), ReasoningParser::ThinkTags));
    let told = errors(&version(", tool_parser: herms, reasoning_parser: 7"));
    assert!(
        told.contains("tool_parser: found \"herms\"; write hermes or llama3_json or mistral or none"),
        "{told}"
    );
    assert!(told.contains("reasoning_parser: found the number 7"), "{told}");
}
