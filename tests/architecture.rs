//! Reads the `use` lines of `src/` and refuses an arrow between rooms that runs back.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use switchback::config::{EngineSettings, KvTokens};
use switchback::engine::{EngineConfig, PrefixCache};

/// Each room and the rooms that it may name. `clock`, `ids` and `telemetry` are open to all others.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("api", &["gateway", "quality", "config"]),
    (
        "cli",
        &["api", "gateway", "engine", "release", "quality", "image", "prompt", "model", "config", "demo"],
    ),
    ("clock", &[]),
    ("config", &[]),
    ("demo", &[]),
    ("dialect", &[]),
    ("engine", &["model"]),
    (
        "gateway",
        &["release", "quality", "notify", "engine", "prompt", "dialect", "image", "model", "config", "store"],
    ),
    ("ids", &[]),
    ("image", &["config"]),
    ("model", &["tensor"]),
    ("notify", &["store", "config"]),
    ("prompt", &["model", "config", "sandbox"]),
    ("quality", &["config", "sandbox"]),
    ("release", &["store", "config"]),
    ("sandbox", &[]),
    ("store", &[]),
    ("telemetry", &["ids"]),
    ("tensor", &[]),
];
const OPEN_TO_ALL: &[&str] = &["clock", "ids", "telemetry"];

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The rooms that a source text names as `crate::room`, braces included.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut rooms = BTreeSet::new();
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (_, rest) in code.match_indices("crate::").map(|(i, m)| (i, &code[i + m.len()..])) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        rooms.insert(word(item.trim()));
                        item.clear();
                    }
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            rooms.insert(word(item.trim()));
        } else {
            rooms.insert(word(rest));
        }
    }
    rooms
}

#[test]
fn dependencies_between_rooms_run_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rules: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut unused: BTreeSet<_> = MAY_IMPORT
        .iter()
        .flat_map(|(room, others)| others.iter().map(move |other| (*room, *other)))
        .collect();
    for room in fs::read_dir(&src).unwrap().map(|e| e.unwrap().path()) {
        let name = room.file_stem().unwrap().to_string_lossy().into_owned();
        if matches!(name.as_str(), "lib" | "main") {
            continue;
        }
        let Some(allowed) = rules.get(name.as_str()) else {
            wrong.push(format!("src/{name} is not in the list of rooms in tests/architecture.rs"));
            continue;
        };
        let mut files = Vec::new();
        if room.is_dir() {
            rust_files(&room, &mut files);
        } else {
            files.push(room);
        }
        for file in files {
            for named in rooms_named(&fs::read_to_string(&file).unwrap()) {
                unused.retain(|(room, other)| (*room, *other) != (name.as_str(), named.as_str()));
                let known = rules.contains_key(named.as_str());
                let open = OPEN_TO_ALL.contains(&&*named) && !OPEN_TO_ALL.contains(&&*name);
                let fine = named == name || open || allowed.contains(&&*named);
                if known && !fine {
                    let file = file.strip_prefix(&src).unwrap().display();
                    wrong.push(format!("src/{file} names crate::{named}: {name} may not import {named}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that run back:\n{}", wrong.join("\n"));
    assert!(unused.is_empty(), "allowed, but nobody needs it; take it off the list: {unused:?}");
}

fn visit<'a>(room: &'a str, rules: &BTreeMap<&'a str, &'a [&'a str]>, path: &mut Vec<&'a str>) {
    assert!(!path.contains(&room), "a cycle: {} -> {room}", path.join(" -> "));
    path.push(room);
    for next in rules[room] {
        visit(next, rules, path);
    }
    path.pop();
}

#[test]
fn the_allowed_arrows_hold_no_cycle() {
    let rules: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    for room in rules.keys() {
        visit(room, &rules, &mut Vec::new());
    }
}

/// The configuration may not import the engine, so each says its defaults; they must stay the same.
#[test]
fn the_engine_and_the_configuration_have_the_same_defaults() {
    let (settings, engine) = (EngineSettings::default(), EngineConfig::default());
    let of_settings = [
        KvTokens::ON_THE_HOST,
        settings.block_size,
        settings.max_running,
        settings.max_step_tokens,
        settings.queue,
    ];
    let of_engine =
        [engine.kv_tokens, engine.block_size, engine.max_running, engine.max_step_tokens, engine.queue];
    assert_eq!(of_settings, of_engine);
    assert_eq!(settings.prefix_cache, engine.prefix_cache == PrefixCache::On);
    assert_eq!(settings.speculative_tokens, engine.speculative_tokens);
    let is_fcfs = engine.scheduling_policy == switchback::engine::SchedulingPolicy::Fcfs;
    assert_eq!(settings.scheduling_policy == switchback::config::SchedulingPolicy::Fcfs, is_fcfs);
}

#[test]
fn files_stay_small_enough_to_hold_in_the_head() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "examples"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        if dir.exists() {
            rust_files(&dir, &mut files);
        }
    }
    let long: Vec<_> = files
        .into_iter()
        .map(|f| (fs::read_to_string(&f).unwrap().lines().count(), f))
        .filter(|(lines, _)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "split these before they grow further: {long:?}");
}
