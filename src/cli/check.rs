//! `switchback check`: whether a configuration holds, and what it names. Offline, for CI: no server is asked, no weight read
//! unless that is wanted.

use std::path::PathBuf;

use serde_json::json;

use super::config_args::ConfigArgs;
use super::error::CliError;
use super::images::show;
use crate::api::check_suites;
use crate::config::suite::read_suite;
use crate::config::{CheckKind, Config, ConfigError, ConfigErrors, ImageRef, VersionConfig};
use crate::image::manifest_of;
use crate::prompt::Prompt;
use crate::quality::suite::check_suite;
use crate::quality::{Checks, CompileError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: ConfigArgs,
    /// A regression suite that must hold together, too
    #[arg(long = "suite", value_name = "FILE")]
    suites: Vec<PathBuf>,
    /// Read the images in folders, and compare them with their digests
    #[arg(long)]
    images: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Judges and embeds here: who does is known when a suite is run.
const WHOEVER: &str = "whoever@v1";

/// What was looked at.
#[derive(Default)]
struct Seen {
    versions: usize,
    prompts: usize,
    images: usize,
    suites: usize,
    cases: usize,
    /// What is wrong.
    faults: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let config = args.source.load()?;
    let mut seen = Seen::default();
    seen.faults.extend(check_suites(&config).err());
    for (model, settings) in &config.models {
        let place = |what: &str| format!("{}: models.{model}.{what}", config.file.display());
        // what compares by meaning is compiled by a server, which has the model that it takes
        let checks = settings.checks.iter().filter(|check| !matches!(check.kind, CheckKind::Similar { .. }));
        if let Err(faults) = Checks::compile(&checks.cloned().collect::<Vec<_>>(), None) {
            let error = |CompileError { check, line, field, found, fix, .. }| {
                let path = format!("models.{model}.checks.{check}.{field}");
                ConfigError { line, path, found, fix }
            };
            let errors = faults.into_iter().map(error).collect();
            let (file, overlay) = (config.file.clone(), config.overlay.clone());
            seen.faults.push(ConfigErrors { file, overlay, errors }.to_string());
        }
        if let Some(Ok(suite)) = settings.suite.as_ref().map(|gate| read_suite(&gate.file)) {
            seen.suites += 1;
            seen.cases += suite.cases.len();
        }
        for (name, version) in &settings.versions {
            let place = place(&format!("versions.{name}"));
            check_version(version, &place, args, &mut seen);
        }
    }
    for suite in &args.suites {
        match read_suite(suite) {
            Ok(suite) => {
                seen.suites += 1;
                seen.cases += suite.cases.len();
                let fault = check_suite(&suite, Some(WHOEVER), Some(WHOEVER)).err();
                seen.faults.extend(fault.map(|why| format!("{}: {why}", suite.file.display())));
            }
            Err(errors) => seen.faults.push(errors.to_string()),
        }
    }
    tell(args, &config, &seen);
    if seen.faults.is_empty() { Ok(()) } else { Err(CliError::Check(seen.faults.join("\n"))) }
}

fn check_version(version: &VersionConfig, place: &str, args: &Args, seen: &mut Seen) {
    seen.versions += 1;
    if let Some(prompt) = &version.prompt {
        seen.prompts += 1;
        let fault = Prompt::read(&prompt.file, prompt.digest).err();
        seen.faults.extend(fault.map(|fault| format!("{place}.prompt: {fault}")));
    }
    let adapter = version.adapter.as_ref().map(|adapter| (&adapter.image, adapter.digest, "adapter"));
    for (image, digest, what) in [(&version.image, version.digest, "image")].into_iter().chain(adapter) {
        // one of the Hub is where the server pulled it to
        let ImageRef::Local(path) = image else { continue };
        seen.images += 1;
        if !path.exists() {
            seen.faults.push(format!("{place}.{what}: {} is not there", path.display()));
        } else if let Some(digest) = digest.filter(|_| args.images) {
            match manifest_of(path, &|_, _| ()) {
                Ok(found) if found.digest() == digest => {}
                Ok(found) => seen.faults.push(format!(
                    "{place}.{what}: {} has the digest {}, not {digest}",
                    path.display(),
                    found.digest()
                )),
                Err(error) => seen.faults.push(format!("{place}.{what}: {error}")),
            }
        }
    }
}

fn tell(args: &Args, config: &Config, seen: &Seen) {
    if args.json {
        show(&json!({
            "config": config.file, "models": config.models.len(), "versions": seen.versions, "prompts": seen.prompts,
            "images": seen.images, "cases": seen.cases, "faults": seen.faults,
        }));
    } else if seen.faults.is_empty() {
        println!(
            "{}: {} models, {} versions, {} prompts; {} cases of {} suites: all hold",
            config.file.display(),
            config.models.len(),
            seen.versions,
            seen.prompts,
            seen.cases,
            seen.suites
        );
    }
}
