//! `switchback diff`: what tells two versions of a configuration apart. Offline: it reads the configuration and the prompt
//! files, and asks no server.

use std::fmt::Display;

use serde_json::{Value, json};
use similar::TextDiff;

use super::config_args::ConfigArgs;
use super::error::CliError;
use super::images::show;
use super::residency::parse_version;
use crate::config::{AdapterRef, Config, VersionConfig};
use crate::ids::{Digest, VersionRef};
use crate::prompt::Prompt;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The version before, such as `support-assistant@v6`
    #[arg(value_name = "MODEL@VERSION", value_parser = parse_version)]
    before: VersionRef,
    /// The version after
    #[arg(value_name = "MODEL@VERSION", value_parser = parse_version)]
    after: VersionRef,
    #[command(flatten)]
    source: ConfigArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Something of a version that decides its answers, or how it serves.
struct Property {
    name: &'static str,
    before: String,
    after: String,
    /// Whether answers depend on it.
    decides: bool,
}

impl Property {
    fn of<T: Display>(name: &'static str, [before, after]: [Option<T>; 2], decides: bool) -> Self {
        let told = |value: Option<T>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
        Self { name, before: told(before), after: told(after), decides }
    }

    fn is_other(&self) -> bool {
        self.before != self.after
    }
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let config = args.source.load()?;
    let versions = [version(&config, &args.before)?, version(&config, &args.after)?];
    let changed: Vec<Property> = properties(versions).into_iter().filter(Property::is_other).collect();
    let prompts = prompt_diff(versions)?;
    let decides = changed.iter().any(|property| property.decides) || prompts.is_some();
    if args.json {
        let changes = changed.iter().map(|property| {
            json!({"what": property.name, "before": property.before, "after": property.after, "decides": property.decides})
        });
        show(&json!({
            "before": args.before.to_string(), "after": args.after.to_string(),
            "answers_may_differ": decides, "shares_weights": shares_weights(versions),
            "changes": changes.collect::<Vec<Value>>(), "prompt": prompts,
        }));
        return Ok(());
    }
    println!("{} -> {}", args.before, args.after);
    for Property { name, before, after, .. } in &changed {
        println!("{name}: {before} -> {after}");
    }
    if let Some(prompts) = &prompts {
        print!("\n{prompts}\n");
    }
    let conclusion = match decides {
        true if shares_weights(versions) => "answers may differ; the weights are the same, and are shared",
        true => "answers may differ",
        false => "nothing that decides answers is another",
    };
    println!("{conclusion}");
    Ok(())
}

fn version<'c>(config: &'c Config, wanted: &VersionRef) -> Result<&'c VersionConfig, CliError> {
    let found = config.models.get(&wanted.model).and_then(|model| model.versions.get(&wanted.version));
    found.ok_or_else(|| {
        let all = config.models.iter().flat_map(|(model, settings)| {
            settings.versions.keys().map(move |version| format!("{model}@{version}"))
        });
        let all: Vec<String> = all.collect();
        CliError::Usage(format!(
            "{} has no version {wanted}; declared: {}",
            config.file.display(),
            all.join(", ")
        ))
    })
}

fn properties(versions: [&VersionConfig; 2]) -> Vec<Property> {
    let adapter = |version: &VersionConfig| {
        version.adapter.as_ref().map(|AdapterRef { image, digest }| pinned(image, *digest))
    };
    let draft = |version: &VersionConfig| version.draft.as_ref().map(|draft| draft.version.to_string());
    // prompts are compared by what they say
    vec![
        Property::of("image", versions.map(|version| Some(pinned(&version.image, version.digest))), true),
        Property::of("quantize", versions.map(|version| Some(version.quantize)), true),
        Property::of("adapter", versions.map(adapter), true),
        Property::of(
            "tool_parser",
            versions.map(|version| version.tool_parser.map(|p| format!("{p:?}"))),
            true,
        ),
        Property::of(
            "reasoning_parser",
            versions.map(|version| Some(format!("{:?}", version.reasoning_parser))),
            true,
        ),
        Property::of("draft", versions.map(draft), false),
        Property::of("residency", versions.map(|version| Some(version.residency.as_str())), false),
        Property::of("kv_tokens", versions.map(|version| version.kv_tokens), false),
        Property::of("flag", versions.map(|version| version.flag.as_ref().map(|flag| json!(flag))), false),
    ]
}

/// What something is: its digest, or where nothing pins it, its place.
fn pinned(place: impl Display, digest: Option<Digest>) -> String {
    match digest {
        Some(digest) => digest.to_string(),
        None => place.to_string(),
    }
}

/// Whether the two are the same weights in memory.
fn shares_weights([before, after]: [&VersionConfig; 2]) -> bool {
    let same_image = match (before.digest, after.digest) {
        (Some(before), Some(after)) => before == after,
        _ => before.image == after.image,
    };
    same_image && before.quantize == after.quantize
}

/// How the prompt files differ, line by line; nothing where they do not.
fn prompt_diff(versions: [&VersionConfig; 2]) -> Result<Option<String>, CliError> {
    let mut texts = Vec::with_capacity(2);
    for version in versions {
        let Some(prompt) = &version.prompt else {
            texts.push(("none".to_owned(), String::new()));
            continue;
        };
        // that it can be used, and is what its digest says
        Prompt::read(&prompt.file, prompt.digest)?;
        let text = std::fs::read_to_string(&prompt.file)
            .map_err(|e| CliError::Prompt(format!("cannot read {}: {e}", prompt.file.display())))?;
        texts.push((prompt.file.display().to_string(), text));
    }
    let [(old, before), (new, after)] = &texts[..] else { return Ok(None) };
    let diff =
        TextDiff::from_lines(before, after).unified_diff().context_radius(3).header(old, new).to_string();
    Ok((before != after).then_some(diff))
}
