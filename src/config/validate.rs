//! From the tree to the valid type. Every check runs, so that one run shows every mistake.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::error::{ConfigError, ConfigErrors};
use super::overlay::{self, EnvName};
use super::raw::{self, Node, Value};
use super::read_checks::{read_check_sample, read_checks};
use super::read_draft::check_drafts;
use super::read_embedding::read_embedding;
use super::read_flag::read_flag;
use super::read_policy::{read_policies, read_policy_name};
use super::read_route::{read_route, read_wanted};
use super::read_version::{Given, less_than_a_block, read_version};
use super::read_webhooks::read_webhooks;
use super::reader::{Problem, Reader, Section, boolean, count, up_to};
use super::store_at::{StoreAt, store_at};
use super::suite_gate::read_suite_gate;
use super::valid::{
    ApiKey, Config, EngineSettings, KvTokens, Mode, ModelConfig, SchedulingPolicy, ServerConfig,
};
use super::values::{address, duration, folder, header_name, kv_tokens, parsed, percentage, size, word};
use crate::ids::{Digest, ModelName, VersionName, Weight};

const TOP: &[&str] = &["server", "engine", "models", "embedding", "policies", "webhooks"];

const SERVER: &[&str] = &[
    "mode",
    "listen",
    "admin",
    "store",
    "images",
    "body_limit",
    "request_timeout",
    "drain_deadline",
    "mirror_capacity",
    "api_keys",
];
const ENGINE: &[&str] = &[
    "kv_tokens",
    "block_size",
    "max_running",
    "max_step_tokens",
    "queue",
    "prefix_cache",
    "scheduling_policy",
    "speculative_tokens",
];

/// Keys of `engine` that are the whole process's, not a model's.
const PROCESS: [&str; 2] = ["threads", "device"];

const MODEL: &[&str] = &[
    "sticky_header",
    "flag",
    "versions",
    "version",
    "route",
    "engine",
    "checks",
    "check_sample",
    "policy",
    "suite",
    "keep_answers",
];

/// A quarter: enough to judge a canary on, and little to pay for it.
const MIRROR_CAPACITY: Weight = match Weight::from_basis_points(2500) {
    Some(quarter) => quarter,
    None => Weight::ZERO,
};

/// Reads and checks a config file.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    load_for(path, None)
}

/// Reads a config file, lays the overlay of an environment over it if one is named, and checks what comes of it.
pub fn load_for(path: &Path, env: Option<&EnvName>) -> Result<Config, ConfigErrors> {
    let whole = |found: String, fix: &str| {
        let error = ConfigError { line: 0, path: String::new(), found, fix: fix.to_owned() };
        ConfigErrors::new(path.to_owned(), vec![error])
    };
    let bytes = std::fs::read(path)
        .map_err(|e| whole(format!("cannot read the file: {e}"), "name a readable file with `--config`"))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| whole(format!("the file is not UTF-8: {e}"), "save it as UTF-8"))?;
    let overlay = match env {
        None => None,
        Some(name) => {
            let text = overlay::read(path, name).map_err(|e| ConfigErrors::new(path.to_owned(), vec![e]))?;
            Some((text, overlay::file_of(path, name)))
        }
    };
    let overlay = overlay.as_ref().map(|(text, file)| (text.as_str(), file.as_path()));
    parse_over(&text, path, overlay, &|name| std::env::var(name).ok())
}

/// Checks a config's text. `file` names it in errors, and its folder is the base of relative paths;
/// `env` answers `${NAME}`.
pub fn parse(text: &str, file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigErrors> {
    parse_over(text, file, None, env)
}

/// The same with the text of an overlay, and its file.
pub fn parse_over(
    text: &str,
    file: &Path,
    overlay: Option<(&str, &Path)>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigErrors> {
    let tree =
        |text: &str, file: &Path| raw::tree(text).map_err(|e| ConfigErrors::new(file.to_owned(), vec![e]));
    let mut root = tree(text, file)?;
    if let Some((text, file)) = overlay {
        root = overlay::lay(root, tree(text, file)?);
    }
    let digest = digest_of(text, overlay.map(|(text, _)| text));
    let overlay = overlay.map(|(_, file)| file.to_owned());
    let mut reader = Reader::default();
    let config = config(&mut reader, &root, file, env);
    if reader.errors.is_empty() {
        return Ok(Config { overlay, digest, ..config });
    }
    Err(ConfigErrors { overlay, ..ConfigErrors::new(file.to_owned(), reader.errors) })
}

/// That of the file as `sha256sum` has it, where nothing is laid over it.
fn digest_of(text: &str, overlay: Option<&str>) -> Digest {
    let mut hash = Sha256::new_with_prefix(text);
    if let Some(overlay) = overlay {
        hash.update([0]);
        hash.update(overlay);
    }
    Digest::from_bytes(hash.finalize().into())
}

fn config(r: &mut Reader, root: &Node, file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Config {
    let base = file.parent().unwrap_or(Path::new(""));
    let top = r.section(root, String::new(), TOP);
    let server = r.section(top.get("server").unwrap_or(&raw::NOTHING), "server".to_owned(), SERVER);
    let server = read_server(r, &server, base, env);

    let known = [ENGINE, &PROCESS].concat();
    let engine_section = r.section(top.get("engine").unwrap_or(&raw::NOTHING), "engine".to_owned(), &known);
    let engine = read_engine(r, &engine_section, EngineSettings::default());
    let threads = r
        .field(&engine_section, "threads", |value| match value {
            Value::Text(t) if t == "auto" => Ok(None),
            value => count(1024)(value)
                .map(Some)
                .map_err(|p| Problem::new(p.found, format!("{}, or `auto`", p.fix))),
        })
        .flatten();
    let device = r.field(&engine_section, "device", parsed).unwrap_or_default();

    let models_section = r.map(top.get("models").unwrap_or(&raw::NOTHING), "models".to_owned());
    let is_absent = |node: Option<&Node>| node.is_none_or(|n| matches!(n.value, Value::Null));
    let none = match &root.value {
        Value::Map(entries) => entries.is_empty() || is_absent(top.get("models")),
        other => matches!(other, Value::Null),
    };
    if none || matches!(top.get("models").map(|n| &n.value), Some(Value::Map(m)) if m.is_empty()) {
        let problem =
            Problem::new("no model is declared", "add `models:` with at least one model and version");
        r.push(models_section.line, "models", problem);
    }
    let policies = read_policies(r, top.get("policies").unwrap_or(&raw::NOTHING));
    let given = Given { base, mode: server.mode, engine, policies: &policies };
    let mut models = BTreeMap::new();
    for (key, node) in &models_section.entries {
        let path = models_section.path_of(&key.name);
        let model = read_model(r, node, &path, key.line, &given);
        if let Some(name) = name::<ModelName>(r, &key.name, key.line, &path) {
            models.insert(name, model);
        }
    }
    check_drafts(r, &models);
    let embedding =
        read_embedding(r, top.get("embedding").unwrap_or(&raw::NOTHING), &models, base, server.mode);
    let webhooks = read_webhooks(r, top.get("webhooks").unwrap_or(&raw::NOTHING), env);
    Config {
        file: file.to_owned(),
        overlay: None,
        digest: digest_of("", None),
        server,
        threads,
        device,
        models,
        embedding,
        policies,
        webhooks,
    }
}

fn read_server(
    r: &mut Reader,
    s: &Section<'_>,
    base: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> ServerConfig {
    let listen = r.field(s, "listen", address).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)));
    let admin = r.field(s, "admin", address).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8081)));
    if clash(listen, admin) {
        let problem = Problem::new(
            format!("{admin} and server.listen {listen} use the same port"),
            "give the admin API a port of its own",
        );
        r.push(s.line_of("admin"), s.path_of("admin"), problem);
    }
    let store = r.field(s, "store", |value| store_at(value, base, env));
    let store = store.unwrap_or_else(|| StoreAt::File(base.join(".switchback/state.db")));
    let images = base.join(r.field(s, "images", folder).unwrap_or(".switchback/images".into()));
    let mode = r.field(s, "mode", |v| word(v, &[("production", Mode::Production), ("dev", Mode::Dev)]));
    ServerConfig {
        mode: mode.unwrap_or(Mode::Production),
        listen,
        admin,
        store,
        images,
        body_limit: r.field(s, "body_limit", size).unwrap_or(2 << 20),
        request_timeout: r.field(s, "request_timeout", duration).unwrap_or(Duration::from_mins(5)),
        mirror_capacity: r.field(s, "mirror_capacity", percentage).unwrap_or(MIRROR_CAPACITY),
        drain_deadline: r.field(s, "drain_deadline", duration).unwrap_or(Duration::from_secs(30)),
        api_keys: read_api_keys(r, s, env),
    }
}

/// Two addresses that cannot both be bound. Port 0 asks for any free port.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn read_api_keys(r: &mut Reader, s: &Section<'_>, env: &dyn Fn(&str) -> Option<String>) -> Vec<ApiKey> {
    let Some(node) = s.get("api_keys") else { return Vec::new() };
    let path = s.path_of("api_keys");
    let items = match &node.value {
        Value::Null => return Vec::new(),
        Value::List(items) => items,
        // A secret may stand here, so the value is not shown.
        _ => {
            r.push(node.line, path, Problem::new("not a list", "write a list: [\"${NAME}\"]"));
            return Vec::new();
        }
    };
    let mut keys = Vec::new();
    for (i, item) in items.iter().enumerate() {
        match api_key(&item.value, env) {
            Ok(key) => keys.push(key),
            Err(problem) => r.push(item.line, format!("{path}[{i}]"), problem),
        }
    }
    keys
}

/// A key as written, or wholly from the environment as `${NAME}`.
fn api_key(value: &Value, env: &dyn Fn(&str) -> Option<String>) -> Result<ApiKey, Problem> {
    let Value::Text(written) = value else {
        return Err(Problem::new("not a text", "put the key in quotes"));
    };
    let secret = match written.strip_prefix("${").and_then(|t| t.strip_suffix('}')) {
        Some(name) if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
            env(name).ok_or_else(|| {
                Problem::new(
                    format!("the environment variable {name} is not set"),
                    format!("set {name} or remove this entry"),
                )
            })?
        }
        Some(name) => {
            return Err(Problem::new(
                format!("{name:?} is not a variable name"),
                "write `${NAME}` with letters, digits and `_`",
            ));
        }
        None if written.contains("${") => {
            return Err(Problem::new(
                "a variable inside a longer text",
                "write the whole entry as `${NAME}`",
            ));
        }
        None => written.clone(),
    };
    if secret.is_empty() || secret.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Problem::new("an empty key, or one with whitespace", "use a key without whitespace"));
    }
    Ok(ApiKey::new(secret))
}

fn read_engine(r: &mut Reader, s: &Section<'_>, base: EngineSettings) -> EngineSettings {
    let kv_tokens = r.field(s, "kv_tokens", kv_tokens).unwrap_or(base.kv_tokens);
    let mut number = |key, most, default| r.field(s, key, count(most)).map_or(default, NonZeroUsize::get);
    let engine = EngineSettings {
        kv_tokens,
        block_size: number("block_size", 1024, base.block_size),
        max_running: number("max_running", 4096, base.max_running),
        max_step_tokens: number("max_step_tokens", 1 << 20, base.max_step_tokens),
        queue: number("queue", 1 << 20, base.queue),
        prefix_cache: r.field(s, "prefix_cache", boolean).unwrap_or(base.prefix_cache),
        scheduling_policy: r
            .field(s, "scheduling_policy", |v| {
                word(v, &[("fcfs", SchedulingPolicy::Fcfs), ("priority", SchedulingPolicy::Priority)])
            })
            .unwrap_or(base.scheduling_policy),
        speculative_tokens: r.field(s, "speculative_tokens", up_to(7)).unwrap_or(base.speculative_tokens),
    };
    if let KvTokens::Tokens(tokens) = engine.kv_tokens
        && tokens < engine.block_size
        && s.get("kv_tokens").or(s.get("block_size")).is_some()
    {
        r.push(s.line_of("kv_tokens"), s.path_of("kv_tokens"), less_than_a_block(tokens, engine.block_size));
    }
    if engine.max_step_tokens < engine.max_running
        && s.get("max_step_tokens").or(s.get("max_running")).is_some()
    {
        let problem = Problem::new(
            format!(
                "{} is less than max_running {}, and each running sequence takes one token per step",
                engine.max_step_tokens, engine.max_running
            ),
            "raise max_step_tokens or lower max_running",
        );
        r.push(s.line_of("max_step_tokens"), s.path_of("max_step_tokens"), problem);
    }
    engine
}

/// The most answers that a model keeps.
const MOST_KEPT: usize = 10_000;

fn read_model(r: &mut Reader, node: &Node, path: &str, line: u64, given: &Given<'_>) -> ModelConfig {
    let Given { base, engine, policies, .. } = *given;
    let s = r.section(node, path.to_owned(), MODEL);
    let sticky_header = r.field(&s, "sticky_header", header_name);

    let engine_path = s.path_of("engine");
    let engine_node = s.get("engine").unwrap_or(&raw::NOTHING);
    // these are read here only to say why they cannot stand here
    let overrides = r.section(engine_node, engine_path, &[ENGINE, &PROCESS].concat());
    for key in PROCESS.into_iter().filter(|key| overrides.get(key).is_some()) {
        let problem =
            Problem::new(format!("{key} is the whole process's"), format!("set engine.{key} instead"));
        r.push(overrides.line_of(key), overrides.path_of(key), problem);
    }
    let engine = read_engine(r, &overrides, engine);

    let listed = r.map(s.get("versions").unwrap_or(&raw::NOTHING), s.path_of("versions"));
    if listed.entries.is_empty() {
        let problem = Problem::new("the model has no version", "add one: `v1: { image: models/v1 }`");
        r.push(s.get("versions").map_or(line, |n| n.line), listed.path.clone(), problem);
    }
    let declared: Vec<&str> = listed.entries.iter().map(|(k, _)| k.name.as_str()).collect();
    let flag = read_flag(r, &s, &declared, None);
    let mut versions = BTreeMap::new();
    for (key, node) in &listed.entries {
        let version = read_version(r, node, &listed, key, &Given { engine, ..*given });
        let path = listed.path_of(&key.name);
        if let (Some(name), Some(version)) = (name::<VersionName>(r, &key.name, key.line, &path), version) {
            versions.insert(name, version);
        }
    }
    let version = read_wanted(r, &s, &declared, &versions);
    let route = read_route(r, &s, line, &declared, &versions, version.as_ref());
    let checks = read_checks(r, &s, base);
    let check_sample = read_check_sample(r, &s);
    let policy = read_policy_name(r, &s, policies);
    let suite = read_suite_gate(r, &s, base);
    let keep_answers = r.field(&s, "keep_answers", count(MOST_KEPT));
    ModelConfig {
        sticky_header,
        flag,
        versions,
        version,
        route,
        engine,
        checks,
        check_sample,
        policy,
        suite,
        keep_answers,
    }
}

pub(super) fn name<T: FromStr<Err = crate::ids::IdError>>(
    r: &mut Reader,
    s: &str,
    line: u64,
    path: &str,
) -> Option<T> {
    s.parse()
        .map_err(|_| {
            let fix = "use 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-', starting with a letter or digit";
            r.push(line, path, Problem::new(format!("{s:?} is not a usable name"), fix));
        })
        .ok()
}
