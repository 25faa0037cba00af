//! Why a change of a route was refused.

use super::rollout::{Refusal, SameVersion};
use crate::config::FlagFault;
use crate::ids::{ExperimentId, ModelName, RolloutId, VersionName, VersionRef, Weight};
use crate::store::StoreError;

/// A refused change; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// No such model.
    #[error("there is no model {model}")]
    UnknownModel {
        /// As asked.
        model: ModelName,
    },
    /// The model has no such version.
    #[error("model {} has no version {}; declare it in the configuration first", version.model, version.version)]
    UnknownVersion {
        /// As asked.
        version: VersionRef,
    },
    /// A version that cannot answer must not take traffic.
    #[error("{version} is not hot; load it first (`switchback load {version}`), then give it traffic")]
    NotHot {
        /// The version.
        version: VersionRef,
    },
    /// A version that has traffic must not be withdrawn.
    #[error("{version} has {weight} % of its model's traffic; set its weight to 0 first")]
    HasWeight {
        /// The version.
        version: VersionRef,
        /// Its weight.
        weight: Weight,
    },
    /// What compares a version with another must end before the version leaves.
    #[error("{version} is needed by {what}; let it end before the version leaves the configuration")]
    NeededBy {
        /// The version.
        version: VersionRef,
        /// By what, with its number.
        what: String,
    },
    /// A flag that cannot work.
    #[error(transparent)]
    Flag(FlagFault),
    /// A flag sends users to a version that is not there, or that is its own.
    #[error("the flag's `otherwise` cannot be {version}; name another version of the model, or `refuse`")]
    FlagLeadsNowhere {
        /// As asked.
        version: VersionRef,
    },
    /// Shares that are not a whole.
    #[error("the weights sum to {sum} %, not 100 %")]
    SumNot100 {
        /// What they sum to.
        sum: f64,
    },
    /// No earlier route was stable.
    #[error(
        "{model} has no earlier route with one version at 100 % to roll back to; set the weights instead"
    )]
    NothingToRollBackTo {
        /// The model.
        model: ModelName,
    },
    /// A rollout needs one version to compare with and to go back to.
    #[error("the traffic of {model} is split; give one version 100 % first, then start a rollout")]
    RouteIsSplit {
        /// The model.
        model: ModelName,
    },
    /// One rollout a model.
    #[error("rollout {id} of {model} runs; let it end, abort it, or let the new one supersede it")]
    RolloutRuns {
        /// The model.
        model: ModelName,
        /// The one that runs.
        id: RolloutId,
    },
    /// An experiment owns the route.
    #[error("experiment {id} of {model} runs; stop it first (`switchback experiment stop {model}`)")]
    ExperimentRuns {
        /// The model.
        model: ModelName,
        /// The one that runs.
        id: ExperimentId,
    },
    /// None runs.
    #[error("no experiment of {model} runs; start one with `switchback experiment start`")]
    NoExperiment {
        /// The model.
        model: ModelName,
    },
    /// Both arms are one version.
    #[error("control and treatment are both {version}; name two versions")]
    SameArms {
        /// The version.
        version: VersionName,
    },
    /// Control is what users have; anything else would be a release.
    #[error(
        "{control} cannot be control, as {stable} has all traffic; take {stable} as control, or roll {control} out first"
    )]
    NotControl {
        /// As asked.
        control: VersionName,
        /// What has all traffic.
        stable: VersionName,
    },
    /// It has ended, or there never was one.
    #[error("rollout {id} of {model} does not run")]
    NoSuchRollout {
        /// The model.
        model: ModelName,
        /// As asked.
        id: RolloutId,
    },
    /// The canary is what serves already.
    #[error(transparent)]
    SameVersion(SameVersion),
    /// What was asked of a rollout makes no sense now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The stored route gives traffic to a version that the configuration does not have.
    #[error(
        "the stored route of {model} gives traffic to {version}, which the configuration no longer declares; declare it, or move the store away to start from the configured route"
    )]
    Undeclared {
        /// The model.
        model: ModelName,
        /// The missing version.
        version: VersionName,
    },
    /// The stored route cannot be read.
    #[error("the stored route of {model}, revision {revision}, does not cover the circle of buckets")]
    Damaged {
        /// The model.
        model: ModelName,
        /// The revision.
        revision: u64,
    },
    /// The task that owns changes has ended: the server is stopping.
    #[error("the server is stopping; routes no longer change")]
    Stopping,
    /// The change could not be written, so it was not made.
    #[error(transparent)]
    Store(#[from] StoreError),
}
