//! The engine's thread: the one owner of the model, the blocks and the sequences. A thin shell around the scheduler.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::constraint::{Advance, Then};
use super::draft::Draft;
use super::generation::{Event, Failure, FinishReason};
use super::guided;
use super::job::{Chosen, End, Job, Progress};
use super::kv_memory::Share;
use super::outcomes::{Outcome, outcomes};
use super::plan::Part;
use super::scheduler::Scheduler;
use super::sequence::{PromptScores, Sequence, SequenceId, Variant};
use super::shared::{Phase, Shared, Tenant};
use super::speculation::GuessedBy;
use super::turns::{Priority, Runner, Turn, Turns};
use crate::model::{Adapter, CausalLm, Tokenizer};

/// How long an engine waits before it asks again for its turn, or for blocks.
const PATIENCE: Duration = Duration::from_millis(1);

/// A message to the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Answer this prompt.
    Generate(Box<(Job, Vec<u32>)>),
    /// Take requests of another tenant, too, which may go through an adapter, and say so; or drop both.
    Admit(Member, Option<Adapter>, SyncSender<()>),
    /// Look at the tenants' phases, and at what others want of the memory.
    Wake,
}

/// A tenant as the thread holds it. Dropping it tells those who wait for its end.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) tenant: Arc<Tenant>,
    /// What computes its requests.
    pub(super) variant: Variant,
    pub(super) _ending: watch::Sender<()>,
}

/// A token that was accepted, and its client not told.
#[derive(Debug)]
pub(super) enum Untold {
    /// The answer goes on.
    More(SequenceId, Chosen),
    /// The last of an answer.
    Last(Box<Job>, Chosen, End),
}

/// How an attempt at a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// Others have the blocks that it needs.
    LacksBlocks,
}

impl Member {
    fn is_open(&self) -> bool {
        self.tenant.phase() == Phase::Open
    }
}

/// What the thread owns.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) lm: Box<dyn CausalLm>,
    pub(super) tokenizer: Tokenizer,
    pub(super) scheduler: Scheduler,
    pub(super) jobs: HashMap<SequenceId, Job>,
    pub(super) commands: Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    pub(super) turns: Turns,
    pub(super) runner: Runner,
    pub(super) share: Share,
    /// The most tokens that are guessed of a sequence at once.
    pub(super) speculative_tokens: usize,
    /// Who guesses them, if it is not the context that is looked through.
    pub(super) draft: Option<Draft>,
    /// What clients are still to be told of the step before.
    pub(super) untold: Vec<Untold>,
    /// Those who have not gone. Dropped after the model, so that it is freed by when their end is told.
    pub(super) members: Vec<Member>,
}

impl Worker {
    /// Works until all tenants have left and nothing is left to do, or until the model fails.
    pub(super) fn run(&mut self) {
        loop {
            self.give_way();
            self.receive();
            self.cut_off();
            self.drop_abandoned();
            self.publish();
            self.let_go();
            if self.members.iter().all(|member| member.tenant.phase() == Phase::Gone) {
                self.tell();
                return;
            }
            if self.jobs.is_empty() {
                // a request of a tenant that leaves may be on its way
                if !self.members.iter().all(Member::is_open) {
                    std::thread::yield_now();
                }
                continue;
            }
            let Some((priority, turn)) = self.turn() else {
                self.wait_a_moment();
                continue;
            };
            let began = Instant::now();
            match self.step(priority) {
                Ok(Step::Done) => {}
                Ok(Step::LacksBlocks) => {
                    drop(turn);
                    self.runner.rest();
                    self.wait_a_moment();
                    continue;
                }
                Err(why) => return self.fail(&why),
            }
            let took = began.elapsed();
            if priority == Priority::Foreground {
                self.runner.stepped(took);
            }
            self.shared.busy_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
            self.publish();
        }
    }

    /// Takes all commands in; waits for one if there is nothing else to do.
    fn receive(&mut self) {
        if self.jobs.is_empty() {
            self.runner.rest();
            self.tell();
        }
        if self.jobs.is_empty()
            && self.members.iter().all(Member::is_open)
            && let Ok(command) = self.commands.recv()
        {
            self.obey(command);
        }
        // whether there are handles is told by the phases: the last of a tenant's goes on to the next
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
    }

    /// Lets go of tenants that are leaving and have nothing left. If that is all of them, they stay until the model is
    /// freed.
    fn let_go(&mut self) {
        for member in self.members.iter().filter(|member| !member.is_open()) {
            let tenant = &member.tenant;
            // Who takes a place looks at the phase afterwards, and we look for places after the phase: so either he
            // finds himself leaving, or his request is found here.
            let has_jobs = || self.jobs.values().any(|job| Arc::ptr_eq(&job.tenant, tenant));
            if !tenant.has_queued() && !has_jobs() {
                tenant.advance(Phase::Gone);
            }
        }
        let stays = |member: &Member| member.tenant.phase() < Phase::Gone;
        if self.members.iter().any(stays) {
            for gone in self.members.extract_if(.., |member| !stays(member)) {
                if let Some(Err(error)) = gone.variant.adapter.map(|slot| self.lm.unseat(slot)) {
                    tracing::warn!(engine = %self.name, %error, "an adapter was not taken out");
                }
            }
        }
    }

    /// What the next step is for; nothing while all there is must wait for its turn.
    fn turn(&mut self) -> Option<(Priority, Option<Turn>)> {
        match self.scheduler.len(Priority::Foreground) {
            0 => {
                self.runner.rest();
                self.turns.background_turn().map(|turn| (Priority::Background, Some(turn)))
            }
            demand => self.runner.may_step(demand).then_some((Priority::Foreground, None)),
        }
    }

    /// The end of the engine, as its model failed.
    fn fail(&mut self, why: &str) {
        tracing::error!(engine = %self.name, %why, "the model failed; the engine ends");
        // First of all, so that nobody who hears of the failure finds the engine alive.
        self.shared.mark_dead();
        self.tell();
        for (_, mut job) in self.jobs.drain() {
            job.outbox.send(Event::Failed(Failure::Model(why.to_owned())));
        }
    }

    /// Gives blocks back that others need more.
    fn give_way(&mut self) {
        if let Some(cache) = self.lm.cache() {
            self.share.give_way(&mut self.scheduler, cache);
        }
    }

    fn wait_a_moment(&mut self) {
        self.tell();
        if let Ok(command) = self.commands.recv_timeout(PATIENCE) {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        let work = match command {
            Command::Generate(work) => work,
            Command::Admit(member, adapter, told) => return self.admit(member, adapter, told),
            Command::Wake => return,
        };
        let (job, prompt) = *work;
        let of = |member: &&Member| Arc::ptr_eq(&member.tenant, &job.tenant);
        // a tenant stays until its last request is over; without one, the client finds its channel closed
        let Some(Member { variant, .. }) = self.members.iter().find(of) else { return };
        let id = self.share.arrival(job.rank);
        let scores = if job.prompt_logprobs.is_some() { PromptScores::Want } else { PromptScores::Skip };
        let sequence = Sequence::new(id, *variant, prompt, scores);
        let by = if self.draft.is_some() { GuessedBy::Draft } else { GuessedBy::Lookup };
        let sequence = sequence.guessing(job.guessing(by, self.speculative_tokens));
        self.scheduler.add(sequence, job.priority);
        self.jobs.insert(id, job);
    }

    fn admit(&mut self, mut member: Member, adapter: Option<Adapter>, told: SyncSender<()>) {
        if let Some(adapter) = adapter {
            match self.lm.seat(&adapter) {
                Ok(Some(slot)) => {
                    member.variant = Variant { adapter: Some(slot), root: self.scheduler.root() };
                }
                Ok(None) => return tracing::warn!(engine = %self.name, "it has no room for another adapter"),
                Err(error) => {
                    return tracing::warn!(engine = %self.name, %error, "it cannot take another adapter");
                }
            }
        }
        self.members.push(member);
        // who has given up waiting leaves by dropping his handle
        let _ = told.try_send(());
    }

    /// Cancels what tenants past their deadline have, and what those who leave have in the background: nobody waits for
    /// that, so the end does not either.
    fn cut_off(&mut self) {
        if self.members.iter().all(Member::is_open) {
            return;
        }
        self.tell();
        let scheduler = &mut self.scheduler;
        self.jobs.retain(|id, job| {
            let stays = match job.tenant.phase() {
                Phase::Open => true,
                Phase::Draining => job.priority == Priority::Foreground,
                Phase::Stopping | Phase::Gone => false,
            };
            if !stays {
                scheduler.remove(*id);
                if job.priority == Priority::Foreground {
                    job.tenant.cut_off.fetch_add(1, Ordering::Relaxed);
                }
                job.finish(FinishReason::Cancelled);
            }
            stays
        });
    }

    fn drop_abandoned(&mut self) {
        let scheduler = &mut self.scheduler;
        self.jobs.retain(|id, job| {
            let stays = !job.outbox.is_abandoned();
            if !stays {
                scheduler.remove(*id);
            }
            stays
        });
    }

    fn publish(&self) {
        self.shared.blocks_used.store(self.scheduler.blocks_used(), Ordering::Relaxed);
        self.shared.preemptions.store(self.scheduler.preemptions(), Ordering::Relaxed);
        for Member { tenant, .. } in &self.members {
            // one that is alone has all of them
            let of = |id: &SequenceId| {
                self.members.len() == 1
                    || self.jobs.get(id).is_some_and(|job| Arc::ptr_eq(&job.tenant, tenant))
            };
            tenant.running.store(self.scheduler.running().filter(of).count(), Ordering::Relaxed);
            tenant.set_aside.store(self.scheduler.set_aside().filter(of).count(), Ordering::Relaxed);
        }
    }

    /// One forward pass and what follows from it. An error is the model's, and the end.
    fn step(&mut self, priority: Priority) -> Result<Step, String> {
        if priority == Priority::Foreground {
            self.guess();
        }
        let cache = self.lm.cache().ok_or("the model has no cache")?;
        let Some(plan) = self.share.plan(&mut self.scheduler, cache, priority) else {
            return Ok(Step::LacksBlocks);
        };
        if plan.parts.is_empty() {
            return Err("the scheduler found nothing to do for the requests it has".into());
        }
        for part in &plan.parts {
            if let Some(job) = self.jobs.get_mut(&part.id) {
                job.place = None;
            }
        }
        self.publish();
        let logits = catch_unwind(AssertUnwindSafe(|| self.lm.forward(&plan.batch)))
            .map_err(|panic| format!("the model panicked: {}", panic_message(panic.as_ref())))?
            .map_err(|error| error.to_string())?;
        self.shared.steps.fetch_add(1, Ordering::Relaxed);
        // while a device computes
        self.tell();
        self.scheduler.computed(&plan);
        for (id, why) in guided::wait(&mut self.jobs, &plan) {
            self.end(id, why);
        }
        let outcomes =
            outcomes(&self.jobs, &self.scheduler, &plan, &logits).map_err(|error| error.to_string())?;
        let mut advances = guided::advance(&mut self.jobs, &plan, &outcomes);
        for (part, outcome) in plan.parts.iter().zip(outcomes) {
            self.apply(part, outcome, advances.remove(&part.id));
        }
        if !self.lm.computes_apart() {
            self.tell();
        }
        Ok(Step::Done)
    }

    /// Prepares guesses for the next step. Without a draft's, answers come as they would and only more slowly, so one that
    /// fails is let go.
    fn guess(&mut self) {
        if self.speculative_tokens == 0 {
            return;
        }
        self.scheduler.make_room_for_guesses();
        let Some(draft) = &mut self.draft else { return };
        let guessed = catch_unwind(AssertUnwindSafe(|| draft.guess(&mut self.scheduler, &self.jobs)));
        let why = match guessed {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_message(panic.as_ref()).to_owned(),
        };
        tracing::error!(engine = %self.name, %why, "the draft model failed; from now on, contexts are looked through");
        self.draft = None;
        self.scheduler.guess_by_lookup();
    }

    /// Tells clients of the tokens that were accepted.
    fn tell(&mut self) {
        for untold in std::mem::take(&mut self.untold) {
            match untold {
                Untold::More(id, chosen) => {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.tell(chosen, None, &self.tokenizer);
                    }
                }
                Untold::Last(mut job, chosen, end) => drop(job.tell(chosen, Some(end), &self.tokenizer)),
            }
        }
    }

    /// Gives a sequence what the step brought.
    fn apply(&mut self, part: &Part, outcome: Result<Outcome, Failure>, advance: Option<Advance>) {
        let Some((job, sequence)) = self.jobs.get_mut(&part.id).zip(self.scheduler.get(part.id)) else {
            return;
        };
        let Outcome { scores, chosen } = match outcome {
            Ok(outcome) => outcome,
            Err(why) => return self.end(part.id, why),
        };
        job.add_prompt_scores(scores, &self.tokenizer);
        // the last was chosen after the guesses that were right
        let Some(right) = chosen.len().checked_sub(1) else { return };
        let cached = sequence.cached.unwrap_or(0);
        if job.start(cached, &self.tokenizer) {
            let Tenant { prefix_hit_tokens, prompt_tokens, .. } = &*job.tenant;
            prefix_hit_tokens.fetch_add(cached as u64, Ordering::Relaxed);
            prompt_tokens.fetch_add(sequence.prompt_len as u64, Ordering::Relaxed);
        }
        job.tenant.speculated_tokens.fetch_add(part.guesses.len() as u64, Ordering::Relaxed);
        let Advance { forced, then } = advance.unwrap_or(Advance { forced: Vec::new(), then: Then::Choice });
        let last = right + forced.len();
        let tokens = chosen.into_iter().chain(forced.into_iter().map(|token| (token, None)));
        for (i, chosen) in tokens.enumerate() {
            if i < right
                && let Some(job) = self.jobs.get(&part.id)
            {
                job.tenant.accepted_tokens.fetch_add(1, Ordering::Relaxed);
            }
            let completes = i == last && then == Then::Complete;
            if self.accept(part.id, chosen, completes.then_some(End::Complete)) == Progress::Ended {
                return;
            }
        }
        if !part.guesses.is_empty() {
            self.scheduler.confirmed(part.id, right);
        }
        if let Then::Stuck(why) = then {
            return self.end(part.id, Failure::Constraint(why));
        }
        if let Some(guide) = self.jobs.get_mut(&part.id).and_then(|job| job.guide.as_mut()) {
            guide.prepare();
        }
    }

    /// Gives a sequence its next token, with which it may be over. Its client is told later, unless the sequence's end hangs
    /// on the text.
    fn accept(&mut self, id: SequenceId, chosen: Chosen, end: Option<End>) -> Progress {
        let Some(job) = self.jobs.get_mut(&id) else { return Progress::Ended };
        job.tenant.generated_tokens.fetch_add(1, Ordering::Relaxed);
        self.scheduler.append(id, chosen.0);
        let end = match (job.accept(chosen.0), end) {
            (Some(End::StopToken), _) => Some(End::StopToken),
            (own, of_grammar) => of_grammar.or(own),
        };
        if job.stops_by_text() {
            let progress = job.tell(chosen, end, &self.tokenizer);
            if progress == Progress::Ended {
                self.take_out(id);
            }
            return progress;
        }
        let Some(end) = end else {
            self.untold.push(Untold::More(id, chosen));
            return Progress::GoesOn;
        };
        // tokens before it that were accepted in the same step go with the job
        if self.untold.iter().any(|untold| matches!(untold, Untold::More(other, _) if *other == id)) {
            self.tell();
        }
        if let Some(job) = self.take_out(id) {
            self.untold.push(Untold::Last(Box::new(job), chosen, end));
        }
        Progress::Ended
    }

    /// Ends one request, and no other.
    fn end(&mut self, id: SequenceId, why: Failure) {
        // its client is owed what came before
        self.tell();
        if let Some(mut job) = self.take_out(id) {
            job.outbox.send(Event::Failed(why));
        }
    }

    fn take_out(&mut self, id: SequenceId) -> Option<Job> {
        self.shared.ended_requests.fetch_add(1, Ordering::Relaxed);
        self.scheduler.remove(id);
        self.jobs.remove(&id)
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
