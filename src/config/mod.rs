//! What the operator wrote, as a type that cannot be wrong.
//!
//! In: a YAML file and the environment (only for `${NAME}` in `server.api_keys` and `{env: NAME}` in `server.store` and `webhooks`); the
//! text of a prompt file.
//! Out: [`Config`] or [`PromptSpec`], or [`ConfigErrors`]: every mistake at once, each with its line and its fix.
//! May import: `ids`.
//! Invariants: a [`Config`] has at least one model; each route sums to 100 % and gives weight only to
//! declared, hot versions; every hub reference is pinned to a commit; paths are resolved against the
//! folder of the file; outside `mode: dev` every version has a digest, and its prompt too; a policy's weights never
//! fall, and its alpha is below its power; a model's checks have different names, and each webhook another URL; there is
//! an embedding model if, and only if, a check compares by meaning. Secrets show in no `Debug`. What only a library can
//! tell of a check (that its regex and its schema compile) is `quality`'s to say, at start; of a prompt's template,
//! `prompt`'s.

mod checks;
mod differences;
mod error;
mod flag;
mod guardrails;
mod image_ref;
mod overlay;
mod phase;
mod policy;
mod prompt;
mod raw;
mod read_checks;
mod read_draft;
mod read_embedding;
mod read_flag;
mod read_guardrails;
mod read_policy;
mod read_prompt;
mod read_route;
mod read_version;
mod read_webhooks;
mod reader;
pub mod sampling;
mod source;
mod store_at;
pub mod suite;
mod suite_gate;
mod units;
mod valid;
mod validate;
mod values;
mod webhook;

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod differences_tests;
#[cfg(test)]
mod draft_tests;
#[cfg(test)]
mod flag_tests;
#[cfg(test)]
mod overlay_tests;
#[cfg(test)]
mod prompt_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod webhook_tests;

pub use checks::{
    Case, CheckKind, CheckSpec, Clock, Cosine, EqualTo, Expect, FinishReason, Judges, LengthUnit, Needed,
    PhraseList, TextRule,
};
pub use differences::{Difference, differences};
pub use error::{ConfigError, ConfigErrors};
pub use flag::{Cohort, Flag, FlagFault, FlagOf, HeaderIs, Otherwise, UserPrefix, Users};
pub use guardrails::{Guardrails, Ratio, RelativeChange, TimeLimit, Timing};
pub use image_ref::{Commit, HubFile, HubImage, HubRepo, ImageRef, ImageRefError};
pub use overlay::{EnvName, file_of as overlay_of};
pub use phase::Phase;
pub use policy::{
    Approval, Chance, EarlyPromote, OnInconclusive, Pause, PercentagePoints, Policy, ReadyMade, Step,
    UnknownPolicy,
};
pub use prompt::{Example, PromptSampling, PromptSpec, Variable, VariableKind};
pub use read_prompt::parse_prompt;
pub use source::{Source, Stamp};
pub use store_at::{PostgresUrl, StoreAt};
pub use suite_gate::{SuiteGate, SuiteTerms};
pub use units::duration;
pub use valid::{
    AdapterRef, ApiKey, Config, DeviceChoice, DraftRef, EmbeddingConfig, EngineSettings, KvTokens, Mode,
    ModelConfig, Pinning, PromptRef, ReasoningParser, Residency, SchedulingPolicy, ServerConfig, ToolParser,
    VersionConfig,
};
pub use validate::{load, load_for, parse, parse_over};
pub use webhook::{Webhook, WebhookFormat, WebhookSecret, WebhookUrl};
