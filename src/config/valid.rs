//! The second type: a config that cannot be wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::checks::{CheckSpec, Judges};
use super::flag::Flag;
use super::image_ref::ImageRef;
use super::policy::Policy;
use super::store_at::StoreAt;
use super::suite_gate::SuiteGate;
use super::webhook::Webhook;
use crate::ids::{CheckName, Digest, ModelName, Quantize, VersionName, VersionRef, Weight};

/// The whole config.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it was read from, as it was named by the caller; for messages.
    pub file: PathBuf,
    /// What was laid over it, if something was.
    pub overlay: Option<PathBuf>,
    /// The sha256 of the text, and of what was laid over it.
    pub digest: Digest,
    /// How the process listens, stores and stops.
    pub server: ServerConfig,
    /// Compute threads of the process; `None`: as many as the machine has cores.
    pub threads: Option<NonZeroUsize>,
    /// What the process's engines compute on.
    pub device: DeviceChoice,
    /// The served models; never empty.
    pub models: BTreeMap<ModelName, ModelConfig>,
    /// The model that `similar` checks compare texts with; there is one if there is such a check.
    pub embedding: Option<EmbeddingConfig>,
    /// Rollout policies beside the ready-made ones, by name.
    pub policies: BTreeMap<String, Policy>,
    /// Who is told what rollouts do; their URLs differ.
    pub webhooks: Vec<Webhook>,
}

/// How the process listens, stores and stops.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Production demands a digest for every version.
    pub mode: Mode,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators connect; never the same as `listen`.
    pub admin: SocketAddr,
    /// The database of releases and audit.
    pub store: StoreAt,
    /// The folder of the image store.
    pub images: PathBuf,
    /// The largest request body in bytes.
    pub body_limit: usize,
    /// The longest a request may take.
    pub request_timeout: Duration,
    /// The longest that a shutdown or an unload waits for running requests.
    pub drain_deadline: Duration,
    /// The most of the device's time that copies of requests may take; they get only what clients leave.
    pub mirror_capacity: Weight,
    /// Keys that clients must send; empty: no key is asked for.
    pub api_keys: Vec<ApiKey>,
}

/// What engines compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU, or the processor where there is none that can be used; the log says why.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// GPU N of the machine, and nothing else.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = &'static str;

    /// What would do, where it is none.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FIX: &str = "write auto, cpu, or cuda:N for GPU N, such as cuda:0";
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            text => {
                let ordinal = text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                ordinal.map(Self::Cuda).ok_or(FIX)
            }
        }
    }
}

/// How strict the config is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every version needs a digest.
    Production,
    /// Versions may lack a digest: what lies in the folder is served.
    Dev,
}

/// A secret that a client sends; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    pub(super) const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for comparison only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// One served model: its versions, first route and engine.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The lower-case name of the header that keeps a user on a version.
    pub sticky_header: Option<String>,
    /// The gate over the model, until an operator sets another.
    pub flag: Option<Flag>,
    /// The versions; never empty.
    pub versions: BTreeMap<VersionName, VersionConfig>,
    /// The version that is to have all traffic, if the file says so. A server rolls it out.
    pub version: Option<VersionName>,
    /// The first route; sums to 100 % over hot versions.
    pub route: BTreeMap<VersionName, Weight>,
    /// The engine of each version of this model.
    pub engine: EngineSettings,
    /// What is checked of each answer, in the order of the file; names differ.
    pub checks: Vec<CheckSpec>,
    /// The share of answers that are checked.
    pub check_sample: Weight,
    /// How its versions are rolled out unless an operator says otherwise.
    pub policy: Option<Policy>,
    /// The suite that its versions must pass before a rollout gives them traffic.
    pub suite: Option<SuiteGate>,
    /// How many of its last answers are kept, with what was asked; none unless it is said.
    pub keep_answers: Option<NonZeroUsize>,
}

impl ModelConfig {
    /// The check that counts users' words, if it has one.
    pub fn feedback_check(&self) -> Option<&CheckName> {
        self.checks.iter().find(|check| check.kind.judges() == Judges::Reception).map(|check| &check.name)
    }

    /// The versions whose content may change from one load to the next; there are none outside dev mode.
    pub fn unpinned(&self) -> impl Iterator<Item = &VersionName> {
        self.versions
            .iter()
            .filter(|(_, version)| version.pinning() == Pinning::Unpinned)
            .map(|(name, _)| name)
    }
}

/// One version: which image, with which prompt, and whether it is loaded at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionConfig {
    /// Where its files are.
    pub image: ImageRef,
    /// What they must be; always present outside dev mode.
    pub digest: Option<Digest>,
    /// What becomes of its weights when they are loaded.
    pub quantize: Quantize,
    /// The adapter that its requests go through, if it has one.
    pub adapter: Option<AdapterRef>,
    /// What guesses its tokens, if not its contexts are looked through. It has no part in what the answers are.
    pub draft: Option<DraftRef>,
    /// The prompt around its conversations, if it has one.
    pub prompt: Option<PromptRef>,
    /// Loaded at start or on demand.
    pub residency: Residency,
    /// The most tokens of the model's key-value memory that it holds; at least one block. All of it, if there is none.
    pub kv_tokens: Option<usize>,
    /// How it writes calls of tools; if nothing is said, its chat template may tell.
    pub tool_parser: Option<ToolParser>,
    /// How it writes what it thinks.
    pub reasoning_parser: ReasoningParser,
    /// The gate over the version, until an operator sets another.
    pub flag: Option<Flag>,
}

/// The model that turns texts into vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingConfig {
    /// Where its files are.
    pub image: ImageRef,
    /// What they must be; always present outside dev mode.
    pub digest: Option<Digest>,
    /// Its line in the config file, for what can only be found wrong later.
    pub line: u64,
}

impl EmbeddingConfig {
    /// Whether what it computes can change.
    pub const fn pinning(&self) -> Pinning {
        Pinning::of(&self.image, self.digest)
    }
}

/// A LoRA adapter, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterRef {
    /// Where its files are.
    pub image: ImageRef,
    /// What they must be; always present outside dev mode.
    pub digest: Option<Digest>,
}

/// A version that guesses tokens of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftRef {
    /// Which one; declared, and without an adapter.
    pub version: VersionRef,
    /// Its line in the config file, for what can only be found wrong later.
    pub line: u64,
}

/// A prompt file, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRef {
    /// Where it is.
    pub file: PathBuf,
    /// The sha256 of its bytes; always present outside dev mode.
    pub digest: Option<Digest>,
}

/// Whether what a version serves can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// A digest, or a commit on the Hub, says what its files are and those of its adapter, and another digest what its
    /// prompt is.
    Pinned,
    /// It serves what lies in one of its folders, or in its prompt file, when it is loaded.
    Unpinned,
}

impl Pinning {
    const fn of(image: &ImageRef, digest: Option<Digest>) -> Self {
        match (image, digest) {
            (ImageRef::Local(_), None) => Self::Unpinned,
            _ => Self::Pinned,
        }
    }
}

impl VersionConfig {
    /// Whether what it serves can change.
    pub fn pinning(&self) -> Pinning {
        let prompt_may_change = self.prompt.as_ref().is_some_and(|prompt| prompt.digest.is_none());
        let of = |adapter: &AdapterRef| Pinning::of(&adapter.image, adapter.digest);
        let adapter_may_change = self.adapter.as_ref().map(of) == Some(Pinning::Unpinned);
        if prompt_may_change || adapter_may_change {
            Pinning::Unpinned
        } else {
            Pinning::of(&self.image, self.digest)
        }
    }
}

/// How a version writes calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolParser {
    /// `<tool_call>{..}</tool_call>`, as Hermes and Qwen do.
    Hermes,
    /// A JSON object and nothing else, as Llama 3 does.
    Llama3Json,
    /// `[TOOL_CALLS]`, as Mistral does.
    Mistral,
    /// Not at all.
    None,
}

/// How a version writes what it thinks before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReasoningParser {
    /// Between `<think>` and `</think>`, as `DeepSeek` R1 and Qwen3 do.
    ThinkTags,
    /// It is not told from the answer.
    #[default]
    None,
}

/// Where a version is once the server is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// On the device, serving.
    Hot,
    /// In the host's memory, ready to go to the device when an operator asks.
    Warm,
    /// Loaded when an operator asks.
    Cold,
}

impl Residency {
    /// As the configuration has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// How much key-value memory the versions of a model share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvTokens {
    /// On a GPU, the model's part of what is free; on the processor, for [`KvTokens::ON_THE_HOST`].
    #[default]
    Auto,
    /// For so many tokens; at least one block.
    Tokens(usize),
}

impl KvTokens {
    /// What `auto` comes to on the processor.
    pub const ON_THE_HOST: usize = 65_536;
}

/// Who is served first of those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchedulingPolicy {
    /// Who came first.
    #[default]
    Fcfs,
    /// Who has the lowest `priority`, and of equals who came first.
    Priority,
}

/// An engine's limits, after defaults and overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// The key-value memory that the model's versions share.
    pub kv_tokens: KvTokens,
    /// Tokens in a KV block.
    pub block_size: usize,
    /// Sequences that run at once; at most `max_step_tokens`.
    pub max_running: usize,
    /// Tokens of one forward step.
    pub max_step_tokens: usize,
    /// Requests that wait before new ones are refused.
    pub queue: usize,
    /// Whether equal prompt prefixes share KV blocks.
    pub prefix_cache: bool,
    /// Who goes first.
    pub scheduling_policy: SchedulingPolicy,
    /// The most tokens that are guessed of a request at once; 0 for none.
    pub speculative_tokens: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            kv_tokens: KvTokens::Auto,
            block_size: 16,
            max_running: 64,
            max_step_tokens: 512,
            queue: 256,
            prefix_cache: true,
            scheduling_policy: SchedulingPolicy::Fcfs,
            speculative_tokens: 0,
        }
    }
}
