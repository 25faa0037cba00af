//! A prompt file, read once: its digest, what it says, and its template compiled.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::{ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};

use super::{endless, python};
use crate::config::{ConfigError, ConfigErrors, PromptSpec, VariableKind, parse_prompt};
use crate::ids::Digest;
use crate::sandbox::{BUSY, Failure, Stopped, Templates};

/// The largest prompt file.
const MOST_BYTES: u64 = 64 << 10;

/// The work one rendering may do: a prompt is far smaller than a conversation, and a request waits for it.
const FUEL: u64 = 200_000;

/// The name of the template in error messages.
pub(super) const NAME: &str = "prompt";

/// A prompt, ready to be put around conversations. Immutable; cheap to clone.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub(super) spec: Arc<PromptSpec>,
    templates: Arc<Templates>,
    digest: Digest,
}

/// Why a prompt file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptFileError {
    /// The file system refused.
    #[error("cannot read the prompt {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A folder, a device, or a file that is too large.
    #[error("the prompt {} {what}; name a file of at most {} KiB", path.display(), MOST_BYTES >> 10)]
    Unfit {
        /// What was named.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Mistakes in it.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// The content is not what was asked for.
    #[error(
        "the prompt {} is not the one that was asked for\n  expected {expected}\n  found    {found}\n  a changed prompt is a new version: give it a file and a version of its own, or set `prompt_digest` to what was found",
        path.display()
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
}

impl Prompt {
    /// Reads a prompt file, checks that it is what was asked for, and compiles it. Blocks.
    pub fn read(path: &Path, expected: Option<Digest>) -> Result<Self, PromptFileError> {
        let unreadable = |source| PromptFileError::Unreadable { path: path.to_owned(), source };
        let unfit = |what| PromptFileError::Unfit { path: path.to_owned(), what };
        // A device or a pipe might never end.
        if !path.metadata().map_err(unreadable)?.is_file() {
            return Err(unfit("is no file"));
        }
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(unfit("is too large"));
        }
        let found = Digest::from_bytes(Sha256::digest(&bytes).into());
        match expected {
            Some(expected) if expected != found => {
                Err(PromptFileError::Mismatch { path: path.to_owned(), expected, found })
            }
            _ => Ok(Self::parse(&bytes, path)?),
        }
    }

    /// A prompt from a file's bytes; `file` names it in errors. Blocks.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<Self, ConfigErrors> {
        let digest = Digest::from_bytes(Sha256::digest(bytes).into());
        let refused = |errors| ConfigErrors { file: file.to_owned(), overlay: None, errors };
        if let Some(errors) = endless::known(digest) {
            return Err(refused(errors));
        }
        let refused = |error| refused(vec![error]);
        let text = std::str::from_utf8(bytes)
            .map_err(|e| refused(mistake(0, format!("the file is not UTF-8: {e}"), "save it as UTF-8")))?;
        let spec = parse_prompt(text, file)?;
        let templates = compiled(&spec).map_err(|errors| ConfigErrors {
            file: file.to_owned(),
            overlay: None,
            errors,
        })?;
        let prompt = Self { spec: Arc::new(spec), templates: Arc::new(templates), digest };
        match prompt.try_out() {
            Ok(()) => Ok(prompt),
            Err(error) => {
                endless::remember(digest, &error);
                Err(refused(error))
            }
        }
    }

    /// The sha256 of the file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it says.
    pub fn spec(&self) -> &PromptSpec {
        &self.spec
    }

    /// Renders it once, so that a template that no request could use is refused before it serves. Variables without
    /// a default get a value of their kind; what such a value does wrong is not held against the template.
    fn try_out(&self) -> Result<(), ConfigError> {
        let stand_in = |kind| match kind {
            VariableKind::String => Json::from("text"),
            VariableKind::Number => Json::from(1),
            VariableKind::Boolean => Json::from(true),
            VariableKind::List => Json::from(vec!["text"]),
        };
        let mut values = Map::new();
        let mut guessed = false;
        for (name, variable) in &self.spec.variables {
            guessed |= variable.default.is_none();
            let value = variable.default.clone().unwrap_or_else(|| stand_in(variable.kind));
            values.insert(name.clone(), value);
        }
        match self.rendered_blocking(values) {
            Err(failure) if !guessed || is_the_templates_own(&failure) => Err(refusal(failure)),
            Ok(text) if !guessed => match super::wrap::too_long(&text) {
                Some(why) => Err(mistake(self.spec.body_line, why, "shorten it")),
                None => Ok(()),
            },
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The text, without the blank space around it: the empty lines that stand for the front matter, and the file's
    /// last line break.
    pub(super) async fn rendered(&self, values: Map<String, Json>) -> Result<String, Failure> {
        if self.is_plain() {
            return Ok(trimmed(self.spec.body.clone()));
        }
        self.templates.render(NAME, values).await.map(trimmed)
    }

    /// The same. Blocks.
    pub(super) fn rendered_blocking(&self, values: Map<String, Json>) -> Result<String, Failure> {
        self.templates.render_blocking(NAME, values).map(trimmed)
    }

    /// Whether the text is its own rendering, as most are.
    fn is_plain(&self) -> bool {
        !["{{", "{%", "{#"].iter().any(|mark| self.spec.body.contains(mark))
    }
}

fn trimmed(text: String) -> String {
    text.trim().to_owned()
}

fn mistake(line: u64, found: impl Into<String>, fix: &str) -> ConfigError {
    ConfigError { line, path: String::new(), found: found.into(), fix: fix.to_owned() }
}

/// The template in its box; every name in it is a variable or one of the language's functions.
fn compiled(spec: &PromptSpec) -> Result<Templates, Vec<ConfigError>> {
    let broken = |failure: Failure| vec![refusal(failure)];
    let mut env = python::environment().map_err(|e| vec![mistake(0, e.to_string(), "mend the template")])?;
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    // Empty lines in the place of the front matter, so that the template's lines are numbered as the file's; what
    // they print is trimmed off again.
    let before = usize::try_from(spec.body_line).unwrap_or(1).saturating_sub(1);
    let source = format!("{}{}", "\n".repeat(before), spec.body);
    let templates = Templates::compile(env, FUEL, vec![(NAME, source)]).map_err(broken)?;
    let unknown = templates.unknown_names(NAME).map_err(broken)?;
    let unknown: Vec<_> = unknown.iter().filter(|name| !spec.variables.contains_key(*name)).collect();
    if unknown.is_empty() {
        Ok(templates)
    } else {
        Err(unknown.iter().map(|name| undeclared(spec, name)).collect())
    }
}

fn undeclared(spec: &PromptSpec, name: &str) -> ConfigError {
    let declared: Vec<_> = spec.variables.keys().map(String::as_str).collect();
    let fix = if declared.is_empty() {
        format!("declare it in the front matter: `variables: {{ {name}: string }}`")
    } else {
        format!("declare it under `variables:`, where there are: {}", declared.join(", "))
    };
    let line = spec.body_line + line_of(&spec.body, name);
    mistake(line, format!("the template names `{name}`, which is no variable"), &fix)
}

/// How many lines of the template go before the one that names `name` in a tag.
fn line_of(body: &str, name: &str) -> u64 {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut inside = false;
    for (line, text) in (0..).zip(body.lines()) {
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = match rest.find(if inside { CLOSES } else { OPENS }) {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            if inside && piece.split(|c| !is_letter(c)).any(|word| word == name) {
                return line;
            }
            inside ^= !after.is_empty();
            rest = after.get(1..).unwrap_or_default();
        }
    }
    0
}

const OPENS: char = '{';
const CLOSES: char = '}';

/// Whether an error would be there whatever the variables' values are.
fn is_the_templates_own(failure: &Failure) -> bool {
    let kinds = [
        ErrorKind::OutOfFuel,
        ErrorKind::TemplateNotFound,
        ErrorKind::UnknownFilter,
        ErrorKind::UnknownTest,
        ErrorKind::UnknownFunction,
    ];
    failure.stopped == Stopped::OutOfFuel || kinds.contains(&failure.kind)
}

/// A template's failure as a mistake in its file.
fn refusal(failure: Failure) -> ConfigError {
    let line = failure.line.map_or(0, |line| line as u64);
    match failure.stopped {
        Stopped::Raised(why) => mistake(
            line,
            format!("the template refuses its own defaults: {why}"),
            "change the defaults, or what it raises",
        ),
        Stopped::OutOfFuel => mistake(
            line,
            "the template was stopped: it does not finish within its bounds of work and memory",
            "end its loops and shorten what it writes",
        ),
        Stopped::Failed(_) if failure.kind == ErrorKind::TemplateNotFound => {
            mistake(line, "the template asks for another file", "write all of it in this one")
        }
        Stopped::Failed(why) => mistake(line, why, "mend the template"),
        Stopped::Busy => mistake(line, BUSY, "try again"),
    }
}
