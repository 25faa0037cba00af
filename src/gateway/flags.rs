//! Flags as operators ask for them, and as requests meet them.

use std::fmt;

use super::command::Address;
use super::{AdminError, Gateway};
use crate::config::ModelConfig;
use crate::ids::{ModelName, VersionName, VersionRef};
use crate::release::{
    Change, DecidedBy, Evaluation, FlagChange, FlagsView, ReleaseError, StickyKey, Traits, Who,
};

/// A question about a user that flags, or a route under them, answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagKey {
    /// Whether a model is open to him, written `desk`.
    Model(ModelName),
    /// Which version his requests get, written `desk:version`.
    VersionOf(ModelName),
    /// Whether a version is open to him, written `desk@v4`.
    Version(VersionRef),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagValue {
    /// Whether it is open.
    Open(bool),
    /// The version; none where the model is closed.
    Version(Option<VersionName>),
}

impl FlagKey {
    /// The model.
    pub fn model(&self) -> &ModelName {
        match self {
            Self::Model(model) | Self::VersionOf(model) => model,
            Self::Version(version) => &version.model,
        }
    }
}

impl fmt::Display for FlagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model) => model.fmt(f),
            Self::VersionOf(model) => write!(f, "{model}:version"),
            Self::Version(version) => version.fmt(f),
        }
    }
}

impl Gateway {
    /// All that can be asked of flags.
    pub fn flag_keys(&self) -> Vec<FlagKey> {
        let of_model = |(model, config): (&ModelName, &ModelConfig)| {
            let version = |version: &VersionName| {
                FlagKey::Version(VersionRef { model: model.clone(), version: version.clone() })
            };
            let own = [FlagKey::Model(model.clone()), FlagKey::VersionOf(model.clone())];
            own.into_iter().chain(config.versions.keys().map(version)).collect::<Vec<_>>()
        };
        self.inner().settings.load().config.models.iter().flat_map(of_model).collect()
    }

    /// What a flag says of a user, and what decided it. What `header` gives stands for the headers that cohorts name.
    pub fn evaluate_flag(
        &self,
        flag: &FlagKey,
        user: &StickyKey,
        header: impl Fn(&str) -> Option<String>,
    ) -> (FlagValue, Evaluation) {
        let model = flag.model();
        let traits = self.traits(model, Who::Named, header);
        let routes = &self.inner().routes;
        let open = Evaluation { lets_in: true, decided_by: DecidedBy::Nothing };
        let evaluate = |of: Option<&VersionName>| {
            let evaluation = routes.evaluate(model, of, user, &traits).unwrap_or(open);
            (FlagValue::Open(evaluation.lets_in), evaluation)
        };
        match flag {
            FlagKey::Model(_) => evaluate(None),
            FlagKey::Version(version) => evaluate(Some(&version.version)),
            FlagKey::VersionOf(_) => {
                let (version, evaluation) = routes.explain(model, user, &traits).unwrap_or((None, open));
                (FlagValue::Version(version), evaluation)
            }
        }
    }

    /// The flags of a model and of its versions.
    pub fn flags(&self, model: &ModelName) -> Result<FlagsView, AdminError> {
        let flags = self.inner().releases.flags(model);
        Ok(flags.ok_or_else(|| ReleaseError::UnknownModel { model: model.clone() })?)
    }

    /// Changes a flag of a model, or of a version of it: durable, and in force for the next request, when this returns.
    pub async fn set_flag(
        &self,
        model: &ModelName,
        of: Option<VersionName>,
        wanted: FlagChange,
        change: Change,
    ) -> Result<FlagsView, AdminError> {
        Ok(self.inner().releases.set_flag(model.clone(), of, wanted, change).await?)
    }

    /// What the flags of a model may know of a request: who asks, and the headers that they name. No others are read.
    pub fn traits(&self, model: &ModelName, who: Who, header: impl Fn(&str) -> Option<String>) -> Traits {
        let names = self.inner().routes.flag_headers(model);
        let read = |name: &std::sync::Arc<str>| Some((std::sync::Arc::clone(name), header(name)?));
        Traits { who, headers: names.iter().filter_map(read).collect() }
    }

    /// Whether a rollout or an experiment of the model may learn from the answer to a request: only from users who could
    /// get either version. One whom a flag keeps from one of them is not like the others, and would be counted for the
    /// other alone.
    pub(super) fn could_get_either(&self, address: &Address) -> bool {
        let Address { target, sticky, traits } = address;
        let Some(arms) = self.inner().releases.compared(target.model()) else { return true };
        arms.iter().all(|version| self.inner().routes.admits(target.model(), version, sticky, traits))
    }
}
