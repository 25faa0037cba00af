//! Experiments to the store and back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::{Ended, Experiment};
use crate::config::Chance;
use crate::ids::Weight;
use crate::release::analysis::Difference;
use crate::release::{AuditAction, Change};
use crate::store::{ExperimentChange, ExperimentRow, NewAudit, RouteRow, StoreError};

/// The `terms` column.
#[derive(Serialize, Deserialize)]
struct Terms {
    name: Option<String>,
    share: Weight,
    confidence: Chance,
    ends_at: Option<Timestamp>,
}

impl Experiment {
    /// What is to be written of its beginning or its end, with the route's new revision and what is known.
    pub(super) fn to_store(&self, route: Option<RouteRow>, findings: &[Difference]) -> ExperimentChange {
        let begun = || (self.started_at, self.by.actor.clone(), self.by.reason.clone(), "begun");
        let (at, actor, reason, what) = self
            .ended
            .as_ref()
            .map_or_else(begun, |ended| (ended.at, ended.actor.clone(), ended.reason.clone(), "ended"));
        let detail = format!(
            "experiment {} {what}: {} against {}, {}={}",
            self.id, self.treatment, self.control, self.treatment, self.share
        );
        let audit = NewAudit {
            at,
            actor,
            action: AuditAction::Experiment.as_str().to_owned(),
            model: self.model.to_string(),
            detail: Some(detail),
            reason: Some(reason).filter(|reason| !reason.is_empty()),
        };
        ExperimentChange { experiment: self.row(findings), route, audit }
    }

    fn row(&self, findings: &[Difference]) -> ExperimentRow {
        let terms = Terms {
            name: self.name.clone(),
            share: self.share,
            confidence: self.confidence,
            ends_at: self.ends_at,
        };
        ExperimentRow {
            id: self.id,
            model: self.model.clone(),
            control: self.control.clone(),
            treatment: self.treatment.clone(),
            terms: json(&terms),
            started_at: self.started_at,
            actor: self.by.actor.clone(),
            reason: self.by.reason.clone(),
            ended_at: self.ended.as_ref().map(|ended| ended.at),
            ending: self.ended.as_ref().map(json),
            findings: self.ended.as_ref().map(|_| json(&findings)),
        }
    }
}

/// An experiment, and what was known at its end.
pub(super) fn restored(row: ExperimentRow) -> Result<(Experiment, Vec<Difference>), StoreError> {
    let Terms { name, share, confidence, ends_at } = read("terms", &row.terms)?;
    let ended: Option<Ended> = row.ending.map(|text| read("ending", &text)).transpose()?;
    let findings = row.findings.map(|text| read("findings", &text)).transpose()?.unwrap_or_default();
    let experiment = Experiment {
        id: row.id,
        name,
        model: row.model,
        control: row.control,
        treatment: row.treatment,
        share,
        confidence,
        started_at: row.started_at,
        by: Change { actor: row.actor, reason: row.reason },
        ends_at,
        ended,
    };
    Ok((experiment, findings))
}

fn read<T: serde::de::DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
    let damaged =
        |e: serde_json::Error| StoreError::Row { column, found: text.to_owned(), why: e.to_string() };
    serde_json::from_str(text).map_err(damaged)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers always serialise")
}
