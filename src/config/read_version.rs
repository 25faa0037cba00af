//! One version: its image, what comes beside it, and where it is once the server is up.

use std::collections::BTreeMap;
use std::path::Path;

use super::image_ref::ImageRef;
use super::policy::Policy;
use super::raw::{Key, Node, Value};
use super::read_draft::read_draft;
use super::read_flag::read_flag;
use super::read_prompt::read_prompt_ref;
use super::reader::{Problem, Reader, Section, count, text};
use super::valid::{AdapterRef, EngineSettings, KvTokens, Mode, Residency, VersionConfig};
use super::values::{MOST_KV_TOKENS, digest, parsed, reasoning_parser, tool_parser, word};
use crate::ids::Digest;

const VERSION: &[&str] = &[
    "image",
    "digest",
    "adapter",
    "adapter_digest",
    "draft",
    "prompt",
    "prompt_digest",
    "quantize",
    "residency",
    "kv_tokens",
    "tool_parser",
    "reasoning_parser",
    "flag",
];

/// What the rest of the file gives every model, and a model its versions.
pub(super) struct Given<'a> {
    /// The folder of the file.
    pub(super) base: &'a Path,
    pub(super) mode: Mode,
    /// For a model, before its own overrides.
    pub(super) engine: EngineSettings,
    pub(super) policies: &'a BTreeMap<String, Policy>,
}

/// One version, `key` of the versions that are `listed`.
pub(super) fn read_version(
    r: &mut Reader,
    node: &Node,
    listed: &Section<'_>,
    key: &Key,
    given: &Given<'_>,
) -> Option<VersionConfig> {
    let Given { base, mode, engine, .. } = *given;
    let s = r.section(node, listed.path_of(&key.name), VERSION);
    let (image, digest) = read_image(r, &s, key.line, base, mode);
    let adapter = read_adapter(r, &s, key.line, base, mode);
    let draft = read_draft(r, &s);
    let prompt = read_prompt_ref(r, &s, key.line, base, mode);
    let quantize = r.field(&s, "quantize", parsed).unwrap_or_default();
    let residency = r.field(&s, "residency", |v| {
        word(v, &[("hot", Residency::Hot), ("warm", Residency::Warm), ("cold", Residency::Cold)])
    });
    let declared: Vec<&str> = listed.entries.iter().map(|(k, _)| k.name.as_str()).collect();
    let flag = read_flag(r, &s, &declared, Some(&key.name));
    let residency = residency.unwrap_or(Residency::Hot);
    let kv_tokens = read_part(r, &s, &engine);
    let tool_parser = r.field(&s, "tool_parser", tool_parser);
    let reasoning_parser = r.field(&s, "reasoning_parser", reasoning_parser).unwrap_or_default();
    let image = image?;
    Some(VersionConfig {
        image,
        digest,
        quantize,
        adapter,
        draft,
        prompt,
        residency,
        kv_tokens,
        tool_parser,
        reasoning_parser,
        flag,
    })
}

/// `image` and `digest`: which files, and what they must be.
pub(super) fn read_image(
    r: &mut Reader,
    s: &Section<'_>,
    line: u64,
    base: &Path,
    mode: Mode,
) -> (Option<ImageRef>, Option<Digest>) {
    let image = r.field(s, "image", |v| image_ref(v, base));
    if s.lacks("image") {
        let problem = Problem::new("missing", "give a folder, a GGUF file or `hf://org/name@<commit>`");
        r.push(line, s.path_of("image"), problem);
    }
    let digest = r.field(s, "digest", |v| digest(v, "switchback images add"));
    if s.lacks("digest") && mode == Mode::Production {
        r.push(line, s.path_of("digest"), Problem::new("missing", ADD_THE_DIGEST));
    }
    (image, digest)
}

/// `adapter` and `adapter_digest`: which files, and what they must be.
fn read_adapter(r: &mut Reader, s: &Section<'_>, line: u64, base: &Path, mode: Mode) -> Option<AdapterRef> {
    let image = r.field(s, "adapter", |v| image_ref(v, base));
    let digest = r.field(s, "adapter_digest", |v| digest(v, "switchback images add"));
    check_pin(r, s, line, mode, Pin { thing: "adapter", digest: "adapter_digest", add: ADD_THE_DIGEST });
    Some(AdapterRef { image: image?, digest })
}

const ADD_THE_DIGEST: &str =
    "add the digest that `switchback images add` or `pull` prints, or set server.mode to dev";

/// Something beside an image, and the digest that pins it: the keys of both, and what to do where the second is missing.
pub(super) struct Pin {
    pub(super) thing: &'static str,
    pub(super) digest: &'static str,
    pub(super) add: &'static str,
}

/// Refuses a digest of nothing, and, in production, something without a digest.
pub(super) fn check_pin(r: &mut Reader, s: &Section<'_>, line: u64, mode: Mode, pin: Pin) {
    let Pin { thing, digest, add } = pin;
    let problem = match (s.lacks(thing), s.lacks(digest)) {
        (true, false) => {
            Problem::new(format!("the version has no {thing}"), format!("add `{thing}:` or remove this"))
        }
        (false, true) if mode == Mode::Production => Problem::new("missing", add),
        _ => return,
    };
    r.push(s.get(digest).map_or(line, |node| node.line), s.path_of(digest), problem);
}

/// Where files are. The reference's own message says `found; fix`.
fn image_ref(value: &Value, base: &Path) -> Result<ImageRef, Problem> {
    ImageRef::parse(text(value)?, base).map_err(|error| {
        let message = error.to_string();
        let (found, fix) = message.split_once("; ").unwrap_or((&message, "give a folder or a GGUF file"));
        Problem::new(found, fix)
    })
}

pub(super) fn less_than_a_block(tokens: usize, block_size: usize) -> Problem {
    let found = format!("{tokens} is less than one block of {block_size}");
    Problem::new(found, "raise kv_tokens or lower block_size")
}

/// `kv_tokens` of a version: its part of what the model's versions share.
fn read_part(r: &mut Reader, s: &Section<'_>, engine: &EngineSettings) -> Option<usize> {
    let tokens = r.field(s, "kv_tokens", count(MOST_KV_TOKENS))?.get();
    let problem = match engine.kv_tokens {
        _ if tokens < engine.block_size => less_than_a_block(tokens, engine.block_size),
        KvTokens::Tokens(all) if tokens > all => Problem::new(
            format!("{tokens} is more than the {all} that the model's versions share"),
            "lower it, leave it out for all of them, or raise engine.kv_tokens",
        ),
        KvTokens::Auto | KvTokens::Tokens(_) => return Some(tokens),
    };
    r.push(s.line_of("kv_tokens"), s.path_of("kv_tokens"), problem);
    None
}
