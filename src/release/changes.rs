//! The one owner of changes: a task that takes them one after another.
//!
//! A change is written first, then published to readers, then answered. A caller that goes away does not
//! undo a change that the task has taken up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::error::ReleaseError;
use super::route::{Route, whole};
use super::table::{RouteTable, Routes};
use super::view::{AuditAction, AuditEntry, RouteView};
use crate::ids::{ModelName, VersionName, VersionRef, Weight};
use crate::store::{NewAudit, RouteRow, Store};

/// Whether a version can take traffic now; asked before each change.
pub trait Readiness: Send + Sync {
    /// True while the version is hot.
    fn is_ready(&self, version: &VersionRef) -> bool;
}

/// A model as the configuration has it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// All its versions.
    pub versions: BTreeSet<VersionName>,
    /// Its first route, used where the store has none yet.
    pub first_route: BTreeMap<VersionName, Weight>,
}

/// Who wants a change, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Who.
    pub actor: String,
    /// Why; may be empty.
    pub reason: String,
}

enum Kind {
    SetWeights(BTreeMap<VersionName, Weight>),
    Rollback,
}

enum Command {
    /// Another route.
    Change {
        model: ModelName,
        kind: Kind,
        change: Change,
        reply: oneshot::Sender<Result<RouteView, ReleaseError>>,
    },
    /// A version leaves. What is done about it is done here, so that no route gives it weight meanwhile.
    Withdraw {
        version: VersionRef,
        withdraw: Box<dyn FnOnce() -> Withdrawn + Send>,
        change: Change,
        reply: oneshot::Sender<Result<(), ReleaseError>>,
    },
}

/// Whether a version was withdrawn; only that is written to the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// It takes no new requests.
    Yes,
    /// It could not be withdrawn; nothing has changed.
    No,
}

/// Changes that may wait; operators make few.
const QUEUE: usize = 64;

/// The handle to the owner of changes. The owner ends when the last handle is dropped.
#[derive(Clone)]
pub struct Releases {
    commands: mpsc::Sender<Command>,
    routes: Routes,
    store: Store,
}

struct Owner {
    store: Store,
    routes: Routes,
    declared: BTreeMap<ModelName, Declared>,
    readiness: Arc<dyn Readiness>,
}

impl Releases {
    /// Takes up the stored routes, writes the first route of models that have none, and starts the owner.
    pub async fn start(
        store: Store,
        declared: BTreeMap<ModelName, Declared>,
        readiness: Arc<dyn Readiness>,
    ) -> Result<Self, ReleaseError> {
        let mut table = RouteTable::default();
        let rows = store.latest_routes().await?;
        let mut stored: BTreeMap<_, _> = rows.into_iter().map(|row| (row.model.clone(), row)).collect();
        for (model, declared) in &declared {
            let route = match stored.remove(model) {
                Some(row) => restored(row, declared)?,
                None => first_route(&store, model, declared).await?,
            };
            table = table.with(model, route);
        }
        let routes = Routes::default();
        routes.publish(table);
        let (commands, mut inbox) = mpsc::channel::<Command>(QUEUE);
        let owner = Owner { store: store.clone(), routes: routes.clone(), declared, readiness };
        tokio::spawn(async move {
            while let Some(command) = inbox.recv().await {
                owner.obey(command).await;
            }
        });
        Ok(Self { commands, routes, store })
    }

    /// The table that requests read.
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// A model's route now.
    pub fn current(&self, model: &ModelName) -> Result<RouteView, ReleaseError> {
        let table = self.routes.snapshot();
        let route = table.get(model).ok_or_else(|| ReleaseError::UnknownModel { model: model.clone() })?;
        Ok(RouteView::of(model, route))
    }

    /// Gives a model other weights, in percent, that sum to 100.
    pub async fn set_weights(
        &self,
        model: ModelName,
        weights: BTreeMap<VersionName, Weight>,
        change: Change,
    ) -> Result<RouteView, ReleaseError> {
        self.send(model, Kind::SetWeights(weights), change).await
    }

    /// Puts a model back on its last stable route.
    pub async fn rollback(&self, model: ModelName, change: Change) -> Result<RouteView, ReleaseError> {
        self.send(model, Kind::Rollback, change).await
    }

    async fn send(&self, model: ModelName, kind: Kind, change: Change) -> Result<RouteView, ReleaseError> {
        self.ask(|reply| Command::Change { model, kind, change, reply }).await
    }

    /// Lets a version be withdrawn by `withdraw` if it has no weight, in order with all changes of routes: no route can
    /// give it weight between the look and the deed. The audit log has it when this returns.
    pub async fn withdraw(
        &self,
        version: VersionRef,
        change: Change,
        withdraw: impl FnOnce() -> Withdrawn + Send + 'static,
    ) -> Result<(), ReleaseError> {
        let withdraw = Box::new(withdraw);
        self.ask(|reply| Command::Withdraw { version, withdraw, change, reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ReleaseError>>) -> Command,
    ) -> Result<T, ReleaseError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ReleaseError::Stopping)?;
        answer.await.map_err(|_| ReleaseError::Stopping)?
    }

    /// Writes what was done to a version, such as a load, to the audit log. The detail is the version's name unless
    /// there is more to tell.
    pub async fn record(
        &self,
        version: VersionRef,
        action: AuditAction,
        detail: Option<String>,
        change: Change,
    ) -> Result<(), ReleaseError> {
        let detail = detail.unwrap_or_else(|| version.version.to_string());
        Ok(self.store.record(&audit_line(&version.model, action, detail, &change)).await?)
    }

    /// The newest lines of the audit log.
    pub async fn audit(&self, limit: u32, model: Option<ModelName>) -> Result<Vec<AuditEntry>, ReleaseError> {
        let rows = self.store.audit(limit, model.as_ref().map(ModelName::as_str)).await?;
        Ok(rows.into_iter().map(AuditEntry::from).collect())
    }
}

impl Owner {
    async fn obey(&self, command: Command) {
        // The caller may have gone; what was done stands and is in the log.
        match command {
            Command::Change { model, kind, change, reply } => {
                let _ = reply.send(self.apply(&model, kind, &change).await);
            }
            Command::Withdraw { version, withdraw, change, reply } => {
                let _ = reply.send(self.withdraw(version, withdraw, &change).await);
            }
        }
    }

    async fn withdraw(
        &self,
        version: VersionRef,
        withdraw: Box<dyn FnOnce() -> Withdrawn + Send>,
        change: &Change,
    ) -> Result<(), ReleaseError> {
        let table = self.routes.snapshot();
        let weight = table.get(&version.model).and_then(|route| route.weights().get(&version.version));
        if let Some(weight) = weight.copied() {
            return Err(ReleaseError::HasWeight { version, weight });
        }
        if withdraw() == Withdrawn::Yes {
            let detail = version.version.to_string();
            let line = audit_line(&version.model, AuditAction::Unload, detail, change);
            self.store.record(&line).await?;
        }
        Ok(())
    }

    async fn apply(&self, model: &ModelName, kind: Kind, change: &Change) -> Result<RouteView, ReleaseError> {
        let table = self.routes.snapshot();
        let unknown = || ReleaseError::UnknownModel { model: model.clone() };
        let current = table.get(model).ok_or_else(unknown)?;
        let declared = self.declared.get(model).ok_or_else(unknown)?;
        let (action, next) = match kind {
            Kind::SetWeights(weights) => {
                let named =
                    |version: &VersionName| VersionRef { model: model.clone(), version: version.clone() };
                if let Some(version) = weights.keys().find(|v| !declared.versions.contains(v)) {
                    return Err(ReleaseError::UnknownVersion { version: named(version) });
                }
                (AuditAction::SetWeights, current.reweighted(whole(weights)?)?)
            }
            Kind::Rollback => {
                let nothing = || ReleaseError::NothingToRollBackTo { model: model.clone() };
                (AuditAction::Rollback, current.rolled_back().ok_or_else(nothing)?)
            }
        };
        for version in next.weights().keys() {
            let version = VersionRef { model: model.clone(), version: version.clone() };
            // a version that keeps or loses traffic needs no proof: only new trust does
            let grows = next.weights().get(&version.version) > current.weights().get(&version.version);
            if grows && !self.readiness.is_ready(&version) {
                return Err(ReleaseError::NotHot { version });
            }
        }
        append(&self.store, model, &next, action, change).await?;
        let view = RouteView::of(model, &next);
        self.routes.publish(table.with(model, next));
        Ok(view)
    }
}

fn restored(row: RouteRow, declared: &Declared) -> Result<Route, ReleaseError> {
    if let Some(version) = row.weights.keys().find(|v| !declared.versions.contains(v)) {
        return Err(ReleaseError::Undeclared { model: row.model, version: version.clone() });
    }
    // a version that has left the configuration can no longer be rolled back to
    let mut points = row.rollback_points;
    points.retain(|point| declared.versions.contains(&point.version));
    let damaged = ReleaseError::Damaged { model: row.model, revision: row.revision };
    Route::restored(row.revision, row.weights, &row.bucket_runs, points).ok_or(damaged)
}

async fn first_route(store: &Store, model: &ModelName, declared: &Declared) -> Result<Route, ReleaseError> {
    let route = Route::first(declared.first_route.clone())?;
    let change =
        Change { actor: "switchback".to_owned(), reason: "first route of the configuration".to_owned() };
    append(store, model, &route, AuditAction::FirstRoute, &change).await?;
    Ok(route)
}

async fn append(
    store: &Store,
    model: &ModelName,
    route: &Route,
    action: AuditAction,
    change: &Change,
) -> Result<(), ReleaseError> {
    let shares: Vec<String> = route.weights().iter().map(|(v, w)| format!("{v}={w}")).collect();
    let line = audit_line(model, action, shares.join(" "), change);
    let row = RouteRow {
        model: model.clone(),
        revision: route.revision(),
        weights: route.weights().clone(),
        bucket_runs: route.bucket_runs(),
        rollback_points: route.rollback_points.clone(),
        at: line.at,
        actor: change.actor.clone(),
        reason: change.reason.clone(),
    };
    Ok(store.append_route(&row, &line).await?)
}

fn audit_line(model: &ModelName, action: AuditAction, detail: String, change: &Change) -> NewAudit {
    NewAudit {
        at: Timestamp::now(),
        actor: change.actor.clone(),
        action: action.as_str().to_owned(),
        model: model.to_string(),
        detail: Some(detail),
        reason: Some(change.reason.clone()).filter(|r| !r.is_empty()),
    }
}
