//! The engine's thread: the one owner of the model, the blocks and the sequences. A thin shell around the scheduler.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::generation::{Event, Failure, FinishReason, Unusable};
use super::job::{Job, Progress};
use super::outcomes::{Outcome, outcomes};
use super::scheduler::{Scheduler, Step};
use super::sequence::{PromptScores, Sequence, SequenceId};
use super::shared::{Phase, Shared};
use super::turns::{Priority, Turn, Turns};
use crate::model::{CausalLm, Tokenizer};

/// How long work in the background waits before it asks again for its turn.
const PATIENCE: Duration = Duration::from_millis(1);

/// A message to the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Answer this prompt.
    Generate(Box<(Job, Vec<u32>)>),
    /// Look at the phase.
    Wake,
}

/// Whether more commands can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inbox {
    Open,
    Closed,
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
    pub(super) next_id: u64,
}

impl Worker {
    /// Works until the handles are gone or the engine is drained and nothing is left to do, or until the model fails.
    pub(super) fn run(&mut self) {
        loop {
            let inbox = self.receive();
            if self.shared.phase() == Phase::Stopping {
                self.cut_off();
            }
            if self.shared.phase() != Phase::Open || inbox == Inbox::Closed {
                // Nobody waits for what is in the background, so the end does not wait for it either.
                self.cut_off_background();
            }
            self.drop_abandoned();
            self.publish();
            if self.jobs.is_empty() {
                if inbox == Inbox::Closed {
                    return;
                }
                if self.shared.phase() != Phase::Open {
                    // Who takes a place looks at the phase afterwards, and we look for places after the phase: so
                    // either he finds the engine closed, or his request is found here.
                    if self.shared.queued.load(Ordering::SeqCst) == 0 {
                        return;
                    }
                    std::thread::yield_now();
                }
                continue;
            }
            let Some((priority, _turn)) = self.turn() else {
                self.wait_for_a_turn();
                continue;
            };
            let began = Instant::now();
            if let Err(why) = self.step(priority) {
                tracing::error!(engine = %self.name, %why, "the model failed; the engine ends");
                // First of all, so that nobody who hears of the failure finds the engine alive.
                self.shared.mark_dead();
                for (_, mut job) in self.jobs.drain() {
                    job.outbox.send(Event::Failed(Failure::Model(why.clone())));
                }
                return;
            }
            self.shared.busy_micros.fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
            self.publish();
        }
    }

    /// Takes all commands in; waits for one if there is nothing else to do.
    fn receive(&mut self) -> Inbox {
        if self.jobs.is_empty() && self.shared.phase() == Phase::Open {
            match self.commands.recv() {
                Ok(command) => self.obey(command),
                Err(_) => return Inbox::Closed,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return Inbox::Open,
                Err(TryRecvError::Disconnected) => return Inbox::Closed,
            }
        }
    }

    /// What the next step is for; nothing while all there is must wait for its turn.
    fn turn(&self) -> Option<(Priority, Option<Turn>)> {
        if self.scheduler.is_empty(Priority::Foreground) {
            self.turns.background_turn().map(|turn| (Priority::Background, Some(turn)))
        } else {
            Some((Priority::Foreground, None))
        }
    }

    fn wait_for_a_turn(&mut self) {
        if let Ok(command) = self.commands.recv_timeout(PATIENCE) {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        let Command::Generate(work) = command else { return };
        let (job, prompt) = *work;
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let scores = if job.prompt_logprobs.is_some() { PromptScores::Want } else { PromptScores::Skip };
        self.scheduler.add(Sequence::new(id, prompt, scores), job.priority);
        self.jobs.insert(id, job);
    }

    fn cut_off(&mut self) {
        for (id, mut job) in self.jobs.drain() {
            self.scheduler.remove(id);
            self.shared.cut_off.fetch_add(1, Ordering::Relaxed);
            job.finish(FinishReason::Cancelled);
        }
    }

    fn cut_off_background(&mut self) {
        let scheduler = &mut self.scheduler;
        self.jobs.retain(|id, job| {
            let stays = job.priority == Priority::Foreground;
            if !stays {
                scheduler.remove(*id);
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
        self.shared.running.store(self.scheduler.running(), Ordering::Relaxed);
        self.shared.set_aside.store(self.scheduler.set_aside(), Ordering::Relaxed);
        self.shared.blocks_used.store(self.scheduler.blocks_used(), Ordering::Relaxed);
    }

    /// One forward pass and what follows from it. An error is the model's, and the end.
    fn step(&mut self, priority: Priority) -> Result<(), String> {
        let plan = self.scheduler.plan(priority);
        if plan.steps.is_empty() {
            return Err("the scheduler found nothing to do for the requests it has".into());
        }
        for step in &plan.steps {
            if let Some(job) = self.jobs.get_mut(&step.id) {
                job.place = None;
            }
        }
        self.shared.preemptions.fetch_add(plan.preempted as u64, Ordering::Relaxed);
        self.publish();
        let logits = catch_unwind(AssertUnwindSafe(|| self.lm.forward(&plan.batch)))
            .map_err(|panic| format!("the model panicked: {}", panic_message(panic.as_ref())))?
            .map_err(|error| error.to_string())?;
        self.shared.steps.fetch_add(1, Ordering::Relaxed);
        self.scheduler.computed(&plan);
        let outcomes =
            outcomes(&self.jobs, &self.scheduler, &plan, &logits).map_err(|error| error.to_string())?;
        for (step, outcome) in plan.steps.iter().zip(outcomes) {
            self.apply(step, outcome);
        }
        Ok(())
    }

    /// Gives a sequence and its client what the step brought.
    fn apply(&mut self, step: &Step, outcome: Result<Outcome, Unusable>) {
        let Some((job, sequence)) = self.jobs.get_mut(&step.id).zip(self.scheduler.get(step.id)) else {
            return;
        };
        let shared = &self.shared;
        let progress = match outcome {
            Err(unusable) => {
                job.outbox.send(Event::Failed(unusable.into()));
                Progress::Ended
            }
            Ok(Outcome { scores, chosen }) => {
                job.add_prompt_scores(scores, &self.tokenizer);
                let Some(chosen) = chosen else { return };
                let cached = sequence.cached.unwrap_or(0);
                if job.start(cached, &self.tokenizer) {
                    shared.prefix_hit_tokens.fetch_add(cached as u64, Ordering::Relaxed);
                    shared.prompt_tokens.fetch_add(sequence.prompt_len as u64, Ordering::Relaxed);
                }
                shared.generated_tokens.fetch_add(1, Ordering::Relaxed);
                self.scheduler.append(step.id, chosen.0);
                job.accept(chosen, &self.tokenizer)
            }
        };
        if progress == Progress::Ended {
            self.shared.ended_requests.fetch_add(1, Ordering::Relaxed);
            self.scheduler.remove(step.id);
            self.jobs.remove(&step.id);
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
