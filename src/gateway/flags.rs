//! Flags as operators ask for them, and as requests meet them.

use super::command::Address;
use super::{AdminError, Gateway};
use crate::ids::{ModelName, VersionName};
use crate::release::{Change, FlagChange, FlagsView, ReleaseError, Traits, Who};

impl Gateway {
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
