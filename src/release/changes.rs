//! The handle to the one owner of changes, and what it can be asked.
//!
//! A caller that goes away does not undo a change that the owner has taken up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use tokio::sync::{mpsc, oneshot};

use super::declared::{Declarations, Declared, Redeclare};
use super::error::ReleaseError;
use super::experiment::{BeginExperiment, Experiment, ExperimentEvent, Experiments};
use super::flags::{self, FlagChange, FlagsView};
use super::owner::{Owner, audit_line, first_route, restored};
use super::rollout::{Basis, Event, Rollout, RolloutId};
use super::running::Running;
use super::shared::as_written;
use super::table::{RouteTable, Routes};
use super::view::{AuditAction, AuditEntry, RolloutLine, RouteView};
use super::wanted::Followed;
use crate::clock::Clock;
use crate::config::Policy;
use crate::ids::{ExperimentId, ModelName, VersionName, VersionRef, Weight};
use crate::store::Store;

/// Whether a version can take traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It can.
    Hot,
    /// Not yet: it is being loaded, or its first load since the server came up is still to come.
    Coming,
    /// It cannot.
    Gone,
}

/// Whether versions can take traffic now; asked before each change.
pub trait Readiness: Send + Sync {
    /// How matters stand with a version.
    fn presence(&self, version: &VersionRef) -> Presence;

    /// True while the version is hot.
    fn is_ready(&self, version: &VersionRef) -> bool {
        self.presence(version) == Presence::Hot
    }
}

/// Who wants a change, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Who.
    pub actor: String,
    /// Why; may be empty.
    pub reason: String,
}

pub(super) enum Kind {
    SetWeights(BTreeMap<VersionName, Weight>),
    /// Back to a version that had all traffic before, however long ago; to the last one where none is named.
    Rollback {
        to: Option<VersionName>,
    },
}

pub(super) enum Command {
    /// A rollout begins.
    Begin { new: Begin, by: Change, reply: oneshot::Sender<Result<Rollout, ReleaseError>> },
    /// Something happened to a rollout.
    Rollout {
        model: ModelName,
        id: RolloutId,
        event: Event,
        reply: oneshot::Sender<Result<Rollout, ReleaseError>>,
    },
    /// Another flag, of a model or of a version.
    Flag {
        model: ModelName,
        of: Option<VersionName>,
        wanted: FlagChange,
        by: Change,
        reply: oneshot::Sender<Result<FlagsView, ReleaseError>>,
    },
    /// The configuration wants a version for a model: the canary of `begin`.
    Follow { begin: Begin, by: Change, reply: oneshot::Sender<Result<Followed, ReleaseError>> },
    /// Another configuration.
    Redeclare { new: Redeclare, reply: oneshot::Sender<Result<(), ReleaseError>> },
    /// An experiment begins.
    BeginExperiment { begin: BeginExperiment, reply: oneshot::Sender<Result<Experiment, ReleaseError>> },
    /// Something happened to an experiment.
    Experiment {
        model: ModelName,
        id: ExperimentId,
        event: ExperimentEvent,
        reply: oneshot::Sender<Result<Experiment, ReleaseError>>,
    },
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
    /// It takes no new requests, and leaves memory.
    ToCold,
    /// It takes no new requests, and stays in the host's memory.
    ToWarm,
    /// It could not be withdrawn; nothing has changed.
    No,
}

/// Changes that may wait; operators make few.
const QUEUE: usize = 64;

/// A rollout that is asked for.
#[derive(Debug, Clone)]
pub struct Begin {
    /// The model.
    pub model: ModelName,
    /// The version that is to have all traffic.
    pub canary: VersionName,
    /// How.
    pub policy: Policy,
    /// What the canary is judged on.
    pub basis: Basis,
    /// What becomes of a rollout of the model that runs.
    pub conflict: OnConflict,
    /// What it begins with.
    pub entry: Entry,
}

/// What a rollout begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Its first step.
    FirstStep,
    /// A regression suite; whoever runs it says how it ended.
    Suite,
}

/// What becomes of a rollout that runs when another is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// It goes on, and the new one is refused.
    #[default]
    Refuse,
    /// The new one takes its place.
    Supersede,
}

/// The handle to the owner of changes. The owner ends when the last handle is dropped.
#[derive(Clone)]
pub struct Releases {
    commands: mpsc::Sender<Command>,
    routes: Routes,
    rollouts: Running,
    pub(super) experiments: Experiments,
    store: Store,
    declared: Declarations,
}

impl Releases {
    /// Takes up the stored routes, writes the first route of models that have none, and starts the owner.
    pub async fn start(
        store: Store,
        declared: BTreeMap<ModelName, Declared>,
        readiness: Arc<dyn Readiness>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ReleaseError> {
        // no other replica writes a first route meanwhile
        let turn = store.take_turn().await?;
        let mut table = RouteTable::default();
        let rows = store.latest_routes().await?;
        let mut stored: BTreeMap<_, _> = rows.into_iter().map(|row| (row.model.clone(), row)).collect();
        for (model, declared) in &declared {
            let route = match stored.remove(model) {
                Some(row) if store.is_shared() => as_written(row)?,
                Some(row) => restored(row, declared)?,
                None => first_route(&store, model, declared).await?,
            };
            table = table.with(model, route);
        }
        for (model, flags) in flags::restored(&store, &declared).await? {
            table = table.with_flags(&model, flags);
        }
        let routes = Routes::default();
        routes.publish(table);
        let rollouts = Running::restored(&store, &declared).await?;
        let experiments = Experiments::restored(&store, &declared).await?;
        let declared = Declarations::new(declared);
        let (commands, inbox) = mpsc::channel::<Command>(QUEUE);
        let owner = Owner {
            store: store.clone(),
            routes: routes.clone(),
            rollouts: rollouts.clone(),
            experiments: experiments.clone(),
            declared: declared.clone(),
            readiness,
            clock,
            known: AtomicI64::new(turn.changes_made()),
        };
        turn.give_back().await;
        tokio::spawn(owner.run(inbox));
        Ok(Self { commands, routes, rollouts, experiments, store, declared })
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
        self.send(model, Kind::Rollback { to: None }, change).await
    }

    /// The flags of a model, and of each of its versions.
    pub fn flags(&self, model: &ModelName) -> Option<FlagsView> {
        let table = self.routes.snapshot();
        let declared = self.declared.get(model)?;
        Some(FlagsView::of(table.flags(model)?, declared.versions.iter().cloned()))
    }

    /// Changes the flag of a model (`None`) or of a version of it; what is not named stays.
    pub async fn set_flag(
        &self,
        model: ModelName,
        of: Option<VersionName>,
        wanted: FlagChange,
        by: Change,
    ) -> Result<FlagsView, ReleaseError> {
        self.ask(|reply| Command::Flag { model, of, wanted, by, reply }).await
    }

    /// Begins a rollout: written down, and its first step taken, when this returns.
    pub async fn begin_rollout(&self, new: Begin, by: Change) -> Result<Rollout, ReleaseError> {
        self.ask(|reply| Command::Begin { new, by, reply }).await
    }

    /// Acts on the configuration's wish for a version, the canary of `begin`, unless it was acted on before: rolls it out, or
    /// gives it back the traffic that it had.
    pub async fn follow(&self, begin: Begin, by: Change) -> Result<Followed, ReleaseError> {
        self.ask(|reply| Command::Follow { begin, by, reply }).await
    }

    /// The version that the configuration wanted for a model when it was acted on last.
    pub async fn followed(&self, model: &ModelName) -> Result<Option<VersionName>, ReleaseError> {
        Ok(self.store.wanted(model).await?)
    }

    /// Takes another configuration of the same models: its versions, and its flags where no operator has set others. `news`
    /// goes to the audit log. Refused where a version is missing that a route, a rollout or an experiment needs.
    pub async fn redeclare(
        &self,
        declared: BTreeMap<ModelName, Declared>,
        news: BTreeMap<ModelName, String>,
        by: Change,
    ) -> Result<(), ReleaseError> {
        let new = Redeclare { declared, news, by };
        self.ask(|reply| Command::Redeclare { new, reply }).await
    }

    /// Tells a rollout what has happened. It is refused if another rollout of the model runs by now.
    pub async fn move_rollout(
        &self,
        model: ModelName,
        id: RolloutId,
        event: Event,
    ) -> Result<Rollout, ReleaseError> {
        self.ask(|reply| Command::Rollout { model, id, event, reply }).await
    }

    /// The rollout of a model that runs, else the last one.
    pub async fn rollout(&self, model: &ModelName) -> Result<Option<Arc<Rollout>>, ReleaseError> {
        if let Some(running) = self.rollouts.get(model) {
            return Ok(Some(running));
        }
        let last = self.store.rollouts(model, 1).await?.into_iter().next();
        Ok(last.map(Rollout::try_from).transpose()?.map(Arc::new))
    }

    /// What happened in the rollouts of a model, the newest first.
    pub async fn rollout_history(
        &self,
        model: &ModelName,
        limit: u32,
    ) -> Result<Vec<RolloutLine>, ReleaseError> {
        let rows = self.store.rollout_history(model, limit).await?;
        Ok(rows.into_iter().map(RolloutLine::from).collect())
    }

    /// The two versions of a model that a rollout or an experiment compares now. Takes no lock.
    pub fn compared(&self, model: &ModelName) -> Option<[VersionName; 2]> {
        if let Some(rollout) = self.rollouts.get(model) {
            return Some([rollout.stable.clone(), rollout.canary.clone()]);
        }
        let experiment = self.experiments.get(model)?;
        Some([experiment.control.clone(), experiment.treatment.clone()])
    }

    /// Whether a rollout or an experiment compares how fast two versions answer. Takes no lock.
    pub fn compares_times(&self) -> bool {
        let timed = |rollout: &Arc<Rollout>| !rollout.policy.guardrails.times.is_empty();
        !self.experiments.all().is_empty() || self.rollouts.all().iter().any(timed)
    }

    /// The rollouts that run.
    pub fn rollouts(&self) -> &Running {
        &self.rollouts
    }

    /// Where routes and rollouts are kept.
    pub fn store(&self) -> &Store {
        &self.store
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

    pub(super) async fn ask<T>(
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
