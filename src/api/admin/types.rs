//! The bodies of the operators' requests and answers; the command line reads the same types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gateway::{
    AdapterStatus, LoadTo, ModelStatus, Prepared, PromptStatus, State, UnloadTo, Unloaded, VersionStatus,
};
use crate::ids::{Digest, ModelName, VersionName, Weight};

/// All models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelsAnswer {
    /// The models by name.
    pub models: Vec<ModelAnswer>,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelAnswer {
    /// Its name.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its versions by name.
    pub versions: Vec<VersionAnswer>,
    /// The revision of its route.
    pub revision: u64,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionAnswer {
    /// Its name within the model.
    #[schema(value_type = String)]
    pub version: VersionName,
    /// Its share of the model's traffic, as a percentage.
    #[schema(value_type = f64)]
    pub weight: Weight,
    /// Where it is.
    pub residency: ResidencyAnswer,
    /// The digest of its image: as loaded, else as configured.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// Where its image comes from.
    pub image: String,
    /// What becomes of its weights when they are loaded: `none`, `q8_0` or `q4_k_m`.
    pub quantize: String,
    /// The adapter that its requests go through; null where it has none.
    pub adapter: Option<AdapterAnswer>,
    /// The version that guesses its tokens, `model@version`; null where none does. It has no part in the answers.
    pub draft: Option<String>,
    /// The prompt around its conversations; null where it has none.
    pub prompt: Option<PromptAnswer>,
    /// The digest of all that decides its answers, the image's, the quantisation, the adapter's and the prompt's;
    /// `system_fingerprint` shows its beginning. Without the latter three it is the image's.
    #[schema(value_type = Option<String>)]
    pub version_digest: Option<Digest>,
    /// Bytes of its image on disk, once loaded.
    pub image_bytes: Option<u64>,
    /// Bytes of its weights in memory.
    pub weight_bytes: Option<u64>,
    /// Of these, bytes that another version had loaded before.
    pub shared_bytes: Option<u64>,
    /// The most tokens of prompt and answer.
    pub max_context: Option<usize>,
}

/// A version's adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdapterAnswer {
    /// Where its files come from.
    pub image: String,
    /// Their digest: as loaded, else as configured.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
}

/// A version's prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptAnswer {
    /// Its file.
    pub file: String,
    /// The sha256 of the file: as loaded, else as configured.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
}

/// A version after it was unloaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UnloadAnswer {
    /// The version.
    #[serde(flatten)]
    pub version: VersionAnswer,
    /// Requests that were not finished at `server.drain_deadline`, and were cut off.
    pub cut_off: usize,
    /// Where a rollback would go to this version: that it is refused until the version is loaded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Where a version is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResidencyAnswer {
    /// `cold`, `loading`, `warm`, `hot`, `draining` or `failed`.
    pub state: String,
    /// Of a load under way, the bytes read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_bytes: Option<u64>,
    /// Of a load under way, the bytes to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Where a rollback goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackTarget {
    /// The revision at which it last had all traffic.
    pub revision: u64,
    /// The version that gets all traffic.
    #[schema(value_type = String)]
    pub version: VersionName,
}

/// A model's route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouteAnswer {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Percentages by version; their sum is 100.
    #[schema(value_type = std::collections::BTreeMap<String, f64>)]
    pub weights: BTreeMap<VersionName, Weight>,
    /// Grows by one with every change.
    pub revision: u64,
    /// The version that the others are compared with.
    #[schema(value_type = String)]
    pub stable: VersionName,
    /// All others that have traffic.
    #[schema(value_type = Vec<String>)]
    pub canary: Vec<VersionName>,
    /// Where a rollback would go; null where there is nothing to go back to.
    pub rollback_target: Option<RollbackTarget>,
}

/// A new route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteBody {
    /// Percentages by version; their sum must be 100.
    #[schema(value_type = std::collections::BTreeMap<String, f64>)]
    pub weights: BTreeMap<VersionName, Weight>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Why something is changed; the body may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeBody {
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How far a version is loaded; the body may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadBody {
    /// `hot`, which is the default, or `warm`: in the host's memory, ready to go to the device.
    #[serde(default)]
    pub to: LoadTarget,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How far a load goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadTarget {
    /// To the device, where it serves.
    #[default]
    Hot,
    /// Into the host's memory, ready to go to the device.
    Warm,
}

/// How far a version is unloaded; the body may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnloadBody {
    /// `cold`, which is the default, or `warm`: off the device, and still in the host's memory.
    #[serde(default)]
    pub to: UnloadTarget,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How far an unload goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnloadTarget {
    /// Out of memory.
    #[default]
    Cold,
    /// Off the device, and still in the host's memory.
    Warm,
}

impl From<LoadTarget> for LoadTo {
    fn from(to: LoadTarget) -> Self {
        match to {
            LoadTarget::Hot => Self::Hot,
            LoadTarget::Warm => Self::Warm,
        }
    }
}

impl From<UnloadTarget> for UnloadTo {
    fn from(to: UnloadTarget) -> Self {
        match to {
            UnloadTarget::Cold => Self::Cold,
            UnloadTarget::Warm => Self::Warm,
        }
    }
}

/// Who did what, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditAnswer {
    /// The entries.
    pub entries: Vec<AuditLine>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// Grows with every entry.
    pub id: i64,
    /// When, in RFC 3339.
    pub at: String,
    /// Who.
    pub actor: String,
    /// What: `set_weights`, `rollback`, `load`, `unload`, ...
    pub action: String,
    /// Of which model.
    pub model: String,
    /// Details, in words.
    pub detail: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

impl From<ModelStatus> for ModelAnswer {
    fn from(status: ModelStatus) -> Self {
        let versions = status.versions.into_iter().map(VersionAnswer::from).collect();
        Self { model: status.model, versions, revision: status.revision }
    }
}

impl From<Unloaded> for UnloadAnswer {
    fn from(unloaded: Unloaded) -> Self {
        Self { version: unloaded.status.into(), cut_off: unloaded.cut_off, warning: unloaded.warning }
    }
}

impl From<VersionStatus> for VersionAnswer {
    fn from(status: VersionStatus) -> Self {
        let prepared = status.state.prepared();
        Self {
            weight: status.weight,
            residency: ResidencyAnswer::from(&status.state),
            digest: status.digest,
            image: status.image.to_string(),
            quantize: status.quantize.to_string(),
            image_bytes: prepared.map(|prepared| prepared.image_bytes),
            weight_bytes: prepared.map(Prepared::weight_bytes),
            shared_bytes: prepared.map(Prepared::shared_bytes),
            max_context: status.max_context(),
            version_digest: status.version_digest(),
            adapter: status.adapter.map(AdapterAnswer::from),
            draft: status.draft.map(|draft| draft.to_string()),
            prompt: status.prompt.map(PromptAnswer::from),
            version: status.version.version,
        }
    }
}

impl From<AdapterStatus> for AdapterAnswer {
    fn from(status: AdapterStatus) -> Self {
        Self { image: status.image.to_string(), digest: status.digest }
    }
}

impl From<PromptStatus> for PromptAnswer {
    fn from(status: PromptStatus) -> Self {
        Self { file: status.file.display().to_string(), digest: status.digest }
    }
}

impl From<&State> for ResidencyAnswer {
    fn from(state: &State) -> Self {
        let progress = if let State::Loading(progress) = state { Some(progress.bytes()) } else { None };
        Self {
            state: state.name().into(),
            loaded_bytes: progress.map(|(done, _)| done),
            total_bytes: progress.map(|(_, total)| total),
            why: state.failure().map(str::to_owned),
        }
    }
}
