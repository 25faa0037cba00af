//! What the owner does for flags: takes them up at the start, and sets them.
//!
//! A flag is in the store, with its audit line, before requests see it, and requests see it before it is answered.

use std::collections::BTreeMap;

use super::changes::Change;
use super::declared::Declared;
use super::error::ReleaseError;
use super::flag::Flags;
use super::owner::{Owner, audit_line};
use super::view::AuditAction;
use crate::config::{Cohort, Flag, FlagOf, Otherwise};
use crate::ids::{ModelName, VersionName, VersionRef, Weight};
use crate::store::{FlagRow, Store, StoreError};

/// What is to change of a flag; the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlagChange {
    /// The switch.
    pub enabled: Option<bool>,
    /// The share.
    pub percentage: Option<Weight>,
    /// The cohorts; none in the list lets everybody in.
    pub cohorts: Option<Vec<Cohort>>,
    /// What those get who are not let in.
    pub otherwise: Option<Otherwise>,
}

/// The flags of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagsView {
    /// The model's own.
    pub model: Flag,
    /// Those of its versions, all of them.
    pub versions: BTreeMap<VersionName, Flag>,
}

impl FlagChange {
    fn applied(self, flag: Flag) -> Flag {
        Flag {
            enabled: self.enabled.unwrap_or(flag.enabled),
            percentage: self.percentage.unwrap_or(flag.percentage),
            cohorts: self.cohorts.unwrap_or(flag.cohorts),
            otherwise: self.otherwise.unwrap_or(flag.otherwise),
        }
    }
}

impl FlagsView {
    pub(super) fn of(flags: &Flags, declared: impl IntoIterator<Item = VersionName>) -> Self {
        let versions = declared.into_iter().map(|version| (version.clone(), flags.get(Some(&version))));
        Self { model: flags.get(None), versions: versions.collect() }
    }
}

impl Owner {
    /// Sets a flag of a model, or of a version of it.
    pub(super) async fn set_flag(
        &self,
        model: &ModelName,
        of: Option<VersionName>,
        wanted: FlagChange,
        by: &Change,
    ) -> Result<FlagsView, ReleaseError> {
        let unknown = || ReleaseError::UnknownModel { model: model.clone() };
        let declared = self.declared.get(model).ok_or_else(unknown)?;
        let table = self.routes.snapshot();
        let flags = table.flags(model).ok_or_else(unknown)?;
        if let Some(version) = of.as_ref().filter(|version| !declared.versions.contains(*version)) {
            let version = VersionRef { model: model.clone(), version: version.clone() };
            return Err(ReleaseError::UnknownVersion { version });
        }
        let flag = wanted.applied(flags.get(of.as_ref()));
        let scope = if of.is_some() { FlagOf::Version } else { FlagOf::Model };
        flag.check(scope).map_err(ReleaseError::Flag)?;
        if let Otherwise::Version(other) = &flag.otherwise
            && (!declared.versions.contains(other) || of.as_ref() == Some(other))
        {
            let version = VersionRef { model: model.clone(), version: other.clone() };
            return Err(ReleaseError::FlagLeadsNowhere { version });
        }
        let what = of.as_ref().map_or_else(|| "model".to_owned(), ToString::to_string);
        let line = audit_line(model, AuditAction::Flag, format!("{what}: {}", json(&flag)), by);
        let row = FlagRow { model: model.clone(), version: of.clone(), flag: json(&flag) };
        self.store.set_flag(&row, &line).await?;
        let flags = flags.with(model, of, flag);
        let view = FlagsView::of(&flags, declared.versions.iter().cloned());
        self.routes.publish(table.with_flags(model, flags));
        Ok(view)
    }
}

/// The flags of all models: as operators have set them, else as configured.
pub(super) async fn restored(
    store: &Store,
    declared: &BTreeMap<ModelName, Declared>,
) -> Result<BTreeMap<ModelName, Flags>, ReleaseError> {
    let mut all: BTreeMap<_, _> =
        declared.iter().map(|(model, declared)| (model.clone(), declared.flags.clone())).collect();
    for row in store.flags().await? {
        let Some(declared) = declared.get(&row.model) else { continue };
        let is_declared = |version: &VersionName| declared.versions.contains(version);
        if !row.version.as_ref().is_none_or(is_declared) {
            continue;
        }
        let mut flag: Flag = serde_json::from_str(&row.flag).map_err(|e| StoreError::Row {
            column: "flag",
            found: row.flag.clone(),
            why: e.to_string(),
        })?;
        if let Otherwise::Version(gone) = &flag.otherwise
            && !is_declared(gone)
        {
            let scope = if row.version.is_some() { FlagOf::Version } else { FlagOf::Model };
            let Flag { otherwise, .. } = Flag::open(scope);
            tracing::warn!(model = %row.model, version = %gone, %otherwise,
                "a flag's `otherwise` is no longer declared; what is usual takes its place");
            flag.otherwise = otherwise;
        }
        if let Some(flags) = all.get_mut(&row.model) {
            flags.insert(row.version, flag);
        }
    }
    Ok(all.into_iter().map(|(model, flags)| (model.clone(), Flags::new(&model, flags))).collect())
}

fn json(flag: &Flag) -> String {
    serde_json::to_string(flag).expect("names and numbers always serialise")
}
