//! Drives the rollouts that run: feeds what checks saw to their analyses, and lets time pass for them.
//!
//! One task owns all panels. It asks the owner of changes for every transition, so a rollout moves in order with all
//! other changes of its route.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::analysis::{Arm, Guardrails, Judgement, Measured, Outcome, Panel, Terms, Verdict};
use super::changes::{Presence, Readiness, Releases};
use super::desk::{Desk, Written, counts};
use super::error::ReleaseError;
use super::experiment;
use super::feedback::{Answered, FeedbackCheck, FeedbackError, Memory, Rated, Remembered};
use super::leading::arm_of;
use super::parcels::Sending;
use super::rollout::{Event, Phase, Rollout, RolloutId};
use super::telling::Telling;
use crate::clock::Clock;
use crate::config::Judges;
use crate::ids::{CheckName, ModelName, ResponseId, Score, VersionName, VersionRef};
use crate::store::{AnswerRow, ObservationRow, Role, StoreError};
use crate::telemetry::Metrics;

/// How often it is told that a rollout cannot move. It is tried at each look.
const GRUMBLE_EVERY: Duration = Duration::from_mins(1);

/// How often the evidence is written down, so that a restart goes on from there.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// What is known of a version that has gone.
const NOT_HOT: &str = "it is not hot any more; `switchback models` tells why";

/// What was seen of one answer that the route had sent to a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Who answered.
    pub version: VersionRef,
    /// A hash of the user's sticky key.
    pub user: u64,
    /// When it was asked for.
    pub admitted: jiff::Timestamp,
    /// How it ended.
    pub answer: SeenAnswer,
    /// Whether anybody had asked for it.
    pub request: Request,
    /// How long it took, and how long it is.
    pub measured: Measured,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A client's own request.
    Original,
    /// A copy for a canary that is watched on copies.
    Copy,
}

/// How an answer ended, as its checks saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeenAnswer {
    /// It came to its end; what each check said.
    Whole(Vec<(CheckName, Outcome)>),
    /// The server owed it and did not give it: an engine failed.
    Broken,
    /// The time ran out.
    TimedOut,
    /// The version would not take the request: there is no answer to check.
    Refused,
}

/// What the watcher is told.
#[derive(Debug)]
pub enum Message {
    /// An answer was checked.
    Seen(Seen),
    /// An answer was given that its reader may have a word about.
    Answered(Answered),
    /// A reader has a word about one that all replicas know.
    Rated {
        /// The answer; this is its first word.
        answer: AnswerRow,
        /// What it is worth.
        score: Score,
        /// Gets what it was counted as.
        reply: oneshot::Sender<Result<Rated, FeedbackError>>,
    },
    /// A reader has a word about one.
    Feedback {
        /// Which answer.
        response: ResponseId,
        /// What it is worth.
        score: Score,
        /// Gets what it was counted as.
        reply: oneshot::Sender<Result<Rated, FeedbackError>>,
    },
}

/// What a rollout of a model is judged by.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The model's checks.
    pub checks: Vec<WatchedCheck>,
    /// The one of them that counts users' words, if there is one.
    pub feedback: Option<FeedbackCheck>,
}

/// A check, as far as the analysis knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedCheck {
    /// Its name.
    pub name: CheckName,
    /// What it judges.
    pub judges: Judges,
}

/// The task that drives rollouts, and what it owns.
pub struct Watcher {
    pub(super) releases: Releases,
    readiness: Arc<dyn Readiness>,
    pub(super) clock: Arc<dyn Clock>,
    /// How long an answer may take.
    longest_answer: Duration,
    pub(super) models: BTreeMap<ModelName, Watched>,
    pub(super) desks: BTreeMap<ModelName, Desk>,
    /// Rollouts of an earlier process, or leader, that wait for the first load of their versions.
    pub(super) earlier: BTreeMap<ModelName, RolloutId>,
    /// When it was last told of a model's rollout that it cannot move.
    grumbled: BTreeMap<ModelName, jiff::Timestamp>,
    pub(super) experiments: experiment::Desks,
    pub(super) memory: Memory,
    /// What it was when it looked last.
    pub(super) role: Role,
    /// What it saw that another is to judge, while it follows.
    pub(super) sending: Sending,
    /// Answers that other replicas are to know.
    pub(super) answers: Telling,
    /// How far it has taken in what others sent of each model, while it leads.
    pub(super) taken: BTreeMap<ModelName, i64>,
    /// Looks while it followed.
    pub(super) looks: u32,
}

impl Watcher {
    /// A watcher of all rollouts. `models` says which checks each model has, `longest_answer` after what time the server
    /// breaks an answer off.
    pub fn new(
        releases: Releases,
        readiness: Arc<dyn Readiness>,
        clock: Arc<dyn Clock>,
        longest_answer: Duration,
        models: BTreeMap<ModelName, Watched>,
    ) -> Self {
        let experiments = experiment::Desks::new(
            releases.clone(),
            Arc::clone(&readiness),
            Arc::clone(&clock),
            models.clone(),
        );
        // of a shared store, it leads only once it knows that it does
        let role = if releases.store().is_shared() { Role::Follows } else { Role::Leads { term: 0 } };
        Self {
            releases,
            readiness,
            clock,
            longest_answer,
            models,
            desks: BTreeMap::new(),
            earlier: BTreeMap::new(),
            grumbled: BTreeMap::new(),
            experiments,
            memory: Memory::default(),
            role,
            sending: Sending::default(),
            answers: Telling::default(),
            taken: BTreeMap::new(),
            looks: 0,
        }
    }

    /// Takes in what is seen, and looks every so often, until `stop`: from then on versions leave because the server
    /// does, and nothing is decided any more. What was begun by then still counts until `end`, and is written down.
    pub async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        look_every: Duration,
        stop: CancellationToken,
        end: CancellationToken,
    ) {
        if self.leads() {
            self.take_up().await;
        }
        let mut ticks = tokio::time::interval(look_every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(message) = inbox.recv() => self.take(message),
                _ = ticks.tick() => self.look().await,
            }
        }
        self.step_down().await;
        while let Some(Some(message)) = end.run_until_cancelled(inbox.recv()).await {
            self.take(message);
        }
        while let Ok(message) = inbox.try_recv() {
            self.take(message);
        }
        self.answers.tell(&self.releases, self.role).await;
        if self.leads() {
            self.save_all().await;
            self.experiments.save_all(&self.taken).await;
        } else {
            self.sending.send(&self.releases).await;
        }
    }

    async fn look(&mut self) {
        self.take_role().await;
        self.answers.tell(&self.releases, self.role).await;
        if self.leads() {
            self.take_parcels().await;
            self.forget_parcels().await;
            self.look_at_all().await;
            self.experiments.look(&self.taken).await;
        } else {
            self.look_as_follower().await;
        }
    }

    /// Counts what a replica that follows could not tell the one that leads.
    #[must_use]
    pub fn counting_by(mut self, metrics: Metrics) -> Self {
        self.sending.count_by(metrics);
        self
    }

    /// Goes on with the experiments of an earlier process; to be called first.
    pub async fn take_up_experiments(&mut self) {
        self.experiments.take_up().await;
    }

    /// Goes on with the rollouts of an earlier process, each as soon as its own versions have been loaded.
    pub(super) async fn take_up(&mut self) {
        for rollout in self.releases.rollouts().all() {
            self.earlier.insert(rollout.model.clone(), rollout.id);
            self.resume(&rollout).await;
        }
    }

    /// Goes on with a rollout of an earlier process: what that had seen counts, the time in between does not. While a
    /// version of it is on its way, it has to wait: nobody has died.
    async fn resume(&mut self, rollout: &Rollout) {
        let of = |version| self.presence(rollout, version);
        if [of(&rollout.stable), of(&rollout.canary)].contains(&Presence::Coming) {
            return;
        }
        let Some(desk) = self.resumed(rollout).await else { return };
        self.earlier.remove(&rollout.model);
        let event = Event::Restarted { last_seen: desk.saved };
        self.desks.insert(rollout.model.clone(), desk);
        self.tell(rollout, event).await;
    }

    fn presence(&self, rollout: &Rollout, version: &VersionName) -> Presence {
        let (model, version) = (rollout.model.clone(), version.clone());
        self.readiness.presence(&VersionRef { model, version })
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Seen(seen) if self.leads() => self.observe(&seen),
            Message::Seen(seen) => self.sending.saw(&self.releases, seen, self.clock.now()),
            Message::Answered(answered) => {
                let now = self.clock.now();
                if self.releases.store().is_shared() {
                    self.answers.remember(&answered, now);
                }
                self.memory.remember(answered, now);
            }
            Message::Feedback { response, score, reply } => {
                // Who no longer waits was told to try again, so that his word must not count yet.
                if !reply.is_closed() {
                    let _ = reply.send(self.feedback(response, score));
                }
            }
            Message::Rated { answer, score, reply } => {
                let AnswerRow { response, version, user, at } = answer;
                self.memory.forget(response);
                let _ = reply.send(self.counted(Remembered { version, user, at }, score));
            }
        }
    }

    fn observe(&mut self, seen: &Seen) {
        self.experiments.observe(seen);
        let now = self.clock.now();
        let Some((rollout, arm, desk)) = self.desk_of(&seen.version) else { return };
        // Weights may have changed since the last look.
        desk.follow(&rollout, now);
        if seen.admitted >= desk.since {
            desk.take(&rollout, arm, seen);
        }
    }

    /// The analysis that a version's answers count for, and on which side.
    pub(super) fn desk_of(&mut self, version: &VersionRef) -> Option<(Arc<Rollout>, Arm, &mut Desk)> {
        let VersionRef { model, version } = version;
        let rollout = self.releases.rollouts().get(model)?;
        let arm = arm_of(&rollout, version)?;
        let desk = self.desks.get_mut(model).filter(|desk| desk.rollout == rollout.id && !desk.suspended)?;
        Some((rollout, arm, desk))
    }

    async fn look_at_all(&mut self) {
        let running = self.releases.rollouts().all();
        self.desks.retain(|model, desk| {
            running.iter().any(|rollout| rollout.model == *model && rollout.id == desk.rollout)
        });
        for rollout in running {
            if self.earlier.get(&rollout.model) == Some(&rollout.id) {
                self.resume(&rollout).await;
            } else {
                self.look_at(&rollout).await;
            }
        }
    }

    async fn look_at(&mut self, rollout: &Rollout) {
        let now = self.clock.now();
        let stable = self.presence(rollout, &rollout.stable);
        let canary = self.presence(rollout, &rollout.canary);
        // It has not been watched yet, and a version of it is still on its way.
        let begun = self.desks.contains_key(&rollout.model);
        if !begun && [stable, canary].contains(&Presence::Coming) {
            return;
        }
        // another replica may have led when it began
        if !begun && self.releases.store().is_shared() {
            let Some(desk) = self.resumed(rollout).await else { return };
            let last_seen = desk.saved;
            self.desks.insert(rollout.model.clone(), desk);
            if last_seen > rollout.started_at {
                self.tell(rollout, Event::Restarted { last_seen }).await;
                return;
            }
        }
        let models = &self.models;
        let desk = self.desks.entry(rollout.model.clone());
        let desk = desk.or_insert_with(|| Desk::new(rollout, checks_of(models, &rollout.model), now));
        // One that is loaded again while its rollout is watched was hot before, and is not.
        if stable != Presence::Hot {
            desk.suspend();
            if rollout.phase() == Phase::Step {
                self.tell(rollout, Event::StableDied { why: NOT_HOT.to_owned() }).await;
            }
            return;
        }
        desk.follow(rollout, now);
        let exposure = desk.exposure(now, self.longest_answer);
        let Judgement { verdict, why } = desk.look();
        let due = now.duration_since(desk.saved).unsigned_abs() >= SAVE_EVERY;
        if due {
            self.save(rollout).await;
        }
        if canary == Presence::Coming {
            return;
        }
        if canary == Presence::Gone {
            self.tell(rollout, Event::CanaryDied { why: NOT_HOT.to_owned() }).await;
            return;
        }
        if rollout.phase() == Phase::Pending {
            self.tell(rollout, Event::NoSuite).await;
            return;
        }
        let known = rollout.judged.as_ref();
        let ripe = rollout.is_ripe(&exposure);
        let news =
            known.is_none_or(|known| known.verdict != verdict || known.finding != why || known.ripe != ripe);
        if news && self.tell(rollout, Event::Judged { verdict, finding: why, exposure }).await.is_none() {
            return;
        }
        if verdict != Verdict::Abort {
            self.tell(rollout, Event::Tick).await;
        }
    }

    /// Asks for a transition; none where it was refused, as an operator was faster.
    async fn tell(&mut self, rollout: &Rollout, event: Event) -> Option<Rollout> {
        match self.releases.move_rollout(rollout.model.clone(), rollout.id, event).await {
            Ok(rollout) => Some(rollout),
            Err(ReleaseError::NoSuchRollout { .. } | ReleaseError::Refused(_) | ReleaseError::Stopping) => {
                None
            }
            Err(error) => {
                // A version that is not hot may stay so for long, and so may a database that is lost.
                let may_last = matches!(&error, ReleaseError::NotHot { .. })
                    || matches!(&error, ReleaseError::Store(error) if error.is_passing());
                if !may_last || self.may_grumble(&rollout.model) {
                    tracing::error!(model = %rollout.model, rollout = %rollout.id, %error, "a rollout could not be moved");
                }
                None
            }
        }
    }

    /// Whether it is long ago that a model's rollout was said to be stuck.
    fn may_grumble(&mut self, model: &ModelName) -> bool {
        let now = self.clock.now();
        let lately = |said: &jiff::Timestamp| now.duration_since(*said).unsigned_abs() < GRUMBLE_EVERY;
        let may = !self.grumbled.get(model).is_some_and(lately);
        if may {
            self.grumbled.insert(model.clone(), now);
        }
        may
    }

    pub(super) async fn save_all(&mut self) {
        for rollout in self.releases.rollouts().all() {
            self.save(&rollout).await;
        }
    }

    async fn save(&mut self, rollout: &Rollout) {
        let now = self.clock.now();
        let Some(desk) = self.desks.get_mut(&rollout.model) else { return };
        desk.saved = now;
        let minute = now.duration_since(rollout.started_at).as_secs().max(0) / 60;
        let minute = u32::try_from(minute).unwrap_or(u32::MAX);
        let written = |(check, canary, stable, snapshot): Written| {
            let (canary, stable) = (counts(canary), counts(stable));
            ObservationRow { rollout: rollout.id, check, minute, at: now, canary, stable, snapshot }
        };
        let rows: Vec<ObservationRow> = desk.written().into_iter().map(written).collect();
        let taken = self.taken_of(&rollout.model);
        if let Err(error) = self
            .releases
            .store()
            .save_observations(&rows, taken.as_ref())
            .await
            .or_else(StoreError::unless_passing)
        {
            tracing::error!(model = %rollout.model, %error, "the evidence of a rollout could not be written");
        }
    }

    /// The analysis as it was last written, or a new one where the checks are others by now; nothing while a database that
    /// replicas share is lost, as what it has must not be written over.
    async fn resumed(&self, rollout: &Rollout) -> Option<Desk> {
        let checks = checks_of(&self.models, &rollout.model);
        let mut desk = Desk::new(rollout, checks, self.clock.now());
        desk.saved = rollout.started_at;
        let rows = match self.releases.store().load_observations(rollout.id).await {
            Ok(rows) => rows,
            Err(error) if error.is_passing() => return None,
            Err(error) => {
                tracing::error!(model = %rollout.model, %error, "the evidence of a rollout could not be read");
                return Some(desk);
            }
        };
        desk.saved = rows.iter().map(|row| row.at).max().unwrap_or(rollout.started_at);
        let snapshots = rows.into_iter().filter_map(|row| Some((row.check, row.snapshot?)));
        let (limits, checks): (Vec<_>, Vec<_>) = snapshots.partition(|(name, _)| Guardrails::wrote(name));
        desk.guardrails.resume(&limits);
        let checks =
            checks.into_iter().filter_map(|(check, text)| Some((check, serde_json::from_str(&text).ok()?)));
        if let Some(panel) = Panel::resume(desk.names(), Terms::from(&rollout.policy), checks.collect()) {
            desk.panel = panel;
        } else {
            tracing::info!(model = %rollout.model, "the evidence of a rollout begins anew");
        }
        // Nobody watched in between.
        desk.cut();
        desk.since = desk.saved.min(self.clock.now());
        Some(desk)
    }
}

fn checks_of(models: &BTreeMap<ModelName, Watched>, model: &ModelName) -> Vec<WatchedCheck> {
    models.get(model).map(|watched| watched.checks.clone()).unwrap_or_default()
}

#[cfg(test)]
#[path = "watcher_tests.rs"]
mod tests;
