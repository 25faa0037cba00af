//! The one owner of judging: takes answers off the queue, judges them, counts, and hands on what it saw.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::queue::Plan;
use super::response::Response;
use super::verdict::Judgement;
use crate::ids::{CheckName, VersionRef};
use crate::telemetry::{Metrics, Outcome};

/// How long the worker sleeps when the queue has just become empty.
const SHORTEST_NAP: Duration = Duration::from_millis(1);

/// How long it sleeps at most: so old are answers when they are judged on a quiet server.
const LONGEST_NAP: Duration = Duration::from_millis(16);

/// Gets each observation, in order, on the worker's thread. It should be quick: answers wait behind it.
pub type Sink = Box<dyn FnMut(Observation) + Send>;

/// How an answer came to its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// The model's route sent it.
    Routed,
    /// It is the answer to a copy, which nobody reads. It was made when there was time.
    Mirrored,
    /// A flag keeps the user from one of the versions that a rollout compares, or took him off the route.
    Flagged,
    /// The client named the version, so that it says nothing of how users fare on the route.
    Pinned,
}

/// An answer that did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutShort {
    /// Why.
    pub outcome: Outcome,
    /// From admission to its end.
    pub elapsed: Duration,
    /// From admission to the first token; none if there was no token.
    pub time_to_first_token: Option<Duration>,
    /// Tokens generated until then.
    pub output_tokens: usize,
}

/// What was seen of one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Who answered.
    pub version: VersionRef,
    /// How the request came to it.
    pub way: Way,
    /// A hash of the sticky key: observations of one user are not independent of each other.
    pub user: u64,
    /// When it was asked for.
    pub admitted: Timestamp,
    /// How the answer ended.
    pub outcome: Outcome,
    /// From admission to its end.
    pub elapsed: Duration,
    /// From admission to the first token.
    pub time_to_first_token: Option<Duration>,
    /// Tokens generated.
    pub output_tokens: usize,
    /// The verdict of each check, in the order of the config. Empty for an answer that was cut short; without a check
    /// that broke.
    pub judgements: Vec<(CheckName, Judgement)>,
}

/// An answer on its way to the worker.
pub(super) struct Ended {
    pub(super) plan: Arc<Plan>,
    pub(super) version: VersionRef,
    pub(super) way: Way,
    pub(super) admitted: Timestamp,
    pub(super) user: u64,
    pub(super) finish: Finish,
}

pub(super) enum Finish {
    Whole(Response),
    CutShort(CutShort),
}

impl Ended {
    /// The bytes of text that it holds.
    pub(super) fn bytes(&self) -> usize {
        match &self.finish {
            Finish::Whole(response) => response.text.len(),
            Finish::CutShort(_) => 0,
        }
    }
}

pub(super) enum Message {
    Answer(Ended),
    /// Judge what came before, then end.
    Close(oneshot::Sender<()>),
}

/// What the queue and the worker both know.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    bytes: AtomicUsize,
    abandoned: AtomicBool,
}

impl Ledger {
    /// Bytes that wait, these included.
    pub(super) fn add(&self, bytes: usize) -> usize {
        self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    pub(super) fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// From now on answers are dropped, not judged.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

pub(super) struct Worker {
    pub(super) receiver: mpsc::Receiver<Message>,
    pub(super) sink: Sink,
    pub(super) metrics: Metrics,
    pub(super) ledger: Arc<Ledger>,
}

impl Worker {
    /// Looks into the queue ever more rarely while it is empty. So nobody has to be woken on the way of a request: that
    /// is a call into the system, and would be most of what checks cost it.
    pub(super) fn run(mut self) {
        let mut nap = SHORTEST_NAP;
        loop {
            match self.receiver.try_recv() {
                Ok(Message::Answer(ended)) => {
                    self.take(ended);
                    nap = SHORTEST_NAP;
                }
                Ok(Message::Close(done)) => return self.close(done),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    std::thread::sleep(nap);
                    nap = (nap * 2).min(LONGEST_NAP);
                }
            }
        }
    }

    fn close(&mut self, done: oneshot::Sender<()>) {
        // Those that slipped in behind are dropped and counted, like those that come later.
        self.receiver.close();
        self.ledger.abandon();
        while let Ok(Message::Answer(ended)) = self.receiver.try_recv() {
            self.take(ended);
        }
        // Nobody waits any more if the deadline has passed.
        let _ = done.send(());
    }

    fn take(&mut self, ended: Ended) {
        self.ledger.remove(ended.bytes());
        if self.ledger.is_abandoned() {
            self.metrics.check_dropped(&ended.version.model);
            return;
        }
        let observation = self.observe(ended);
        let sink = &mut self.sink;
        if catch_unwind(AssertUnwindSafe(|| sink(observation))).is_err() {
            tracing::error!("an observation was lost: what takes them panicked");
        }
    }

    fn observe(&self, ended: Ended) -> Observation {
        let Ended { plan, version, way, admitted, user, finish } = ended;
        match finish {
            Finish::Whole(response) => Observation {
                judgements: self.judge(&plan, &version, way, &response),
                version,
                way,
                admitted,
                user,
                outcome: Outcome::Ok,
                elapsed: response.elapsed,
                time_to_first_token: response.time_to_first_token,
                output_tokens: response.output_tokens,
            },
            Finish::CutShort(cut) => Observation {
                judgements: Vec::new(),
                version,
                way,
                admitted,
                user,
                outcome: cut.outcome,
                elapsed: cut.elapsed,
                time_to_first_token: cut.time_to_first_token,
                output_tokens: cut.output_tokens,
            },
        }
    }

    fn judge(
        &self,
        plan: &Plan,
        version: &VersionRef,
        way: Way,
        response: &Response,
    ) -> Vec<(CheckName, Judgement)> {
        let judged: Vec<_> = match way {
            Way::Routed | Way::Flagged | Way::Pinned => plan.checks.judge(response).collect(),
            Way::Mirrored => plan.checks.judge_content(response).collect(),
        };
        let mut judgements = Vec::new();
        for (check, judged) in judged {
            match judged {
                Ok(judgement) => {
                    self.metrics.check_judged(version, check.as_str(), judgement.verdict.label());
                    judgements.push((check.clone(), judgement));
                }
                Err(why) => {
                    tracing::error!(%version, %check, %why, "the check broke; its verdict is lost");
                    self.metrics.check_judged(version, check.as_str(), "broken");
                }
            }
        }
        self.metrics.response_checked(version);
        judgements
    }
}
