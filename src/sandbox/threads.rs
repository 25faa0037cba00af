//! A few threads of large stacks, which take one job after the other. They begin with the first that is waited for, and end
//! when none has come for a while.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::failure::Failure;

/// Threads of one owner. One that never ends computes beside everybody else, so there are few.
const MOST_THREADS: usize = 4;
/// Jobs that may wait. Each is one request, which holds its messages anyway.
const MOST_WAITING: usize = 4096;
/// How long one waits for a job: an honest rendering takes milliseconds, on a machine that has much to do some more.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// How long a thread waits for the next job.
const IDLE: Duration = Duration::from_mins(1);

/// What becomes of a thread after a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It takes the next one.
    Stay,
    /// It ends, and gives back the stack that the job has touched.
    Leave,
}

/// Does the work, and gives who is to be told of it: once the thread is free again.
type Job = Box<dyn FnOnce() -> (After, Box<dyn FnOnce() + Send>) + Send>;

/// Threads of one owner; they end with it.
#[derive(Debug)]
pub(super) struct Threads {
    shared: Arc<Shared>,
    stack: usize,
    longest: Duration,
}

#[derive(Debug)]
struct Shared {
    /// Held for a push or a pop, never while a job runs. Threads that come and go share it, so it is no channel.
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// When each of the jobs that run began.
    running: Vec<Instant>,
    idle: usize,
    alive: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("alive", &self.alive).finish_non_exhaustive()
    }
}

struct Waiting {
    job: Job,
    until: Instant,
}

impl Threads {
    /// Of such stacks; a job is waited for so long. None is begun yet.
    pub(super) fn new(stack: usize, longest: Duration) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::default(), work: Condvar::new() }), stack, longest }
    }

    /// Does a job, and waits for it without holding up a thread. One that nobody waits for any more is not begun.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> (Result<T, Failure>, After) + Send + 'static,
    ) -> Result<T, Failure> {
        let ((tell, mut told), begun) = (oneshot::channel(), Arc::new(AtomicBool::new(false)));
        let begins = Arc::clone(&begun);
        self.submit(Box::new(move || {
            if tell.is_closed() {
                return (After::Stay, Box::new(|| ()));
            }
            begins.store(true, Ordering::Release);
            let (result, after) = job();
            (after, Box::new(move || drop(tell.send(result))))
        }))?;
        // as long to be begun as to be done
        for wait in [Wait::ToBegin, Wait::ToEnd] {
            match tokio::time::timeout(self.longest, &mut told).await {
                Ok(result) => return result.unwrap_or_else(|_| Err(ended(&begun))),
                Err(_) if wait == Wait::ToBegin && !begun.load(Ordering::Acquire) => {
                    return Err(Failure::busy());
                }
                Err(_) => {}
            }
        }
        Err(Failure::endless())
    }

    /// Does a job. Blocks.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> (Result<T, Failure>, After) + Send + 'static,
    ) -> Result<T, Failure> {
        let ((tell, told), begun) = (mpsc::sync_channel(1), Arc::new(AtomicBool::new(false)));
        let begins = Arc::clone(&begun);
        self.submit(Box::new(move || {
            begins.store(true, Ordering::Release);
            let (result, after) = job();
            (after, Box::new(move || drop(tell.send(result))))
        }))?;
        for wait in [Wait::ToBegin, Wait::ToEnd] {
            match told.recv_timeout(self.longest) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(ended(&begun)),
                Err(_) if wait == Wait::ToBegin && !begun.load(Ordering::Acquire) => {
                    return Err(Failure::busy());
                }
                Err(_) => {}
            }
        }
        Err(Failure::endless())
    }

    fn submit(&self, job: Job) -> Result<(), Failure> {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        let stuck = |began: &Instant| now.duration_since(*began) > self.longest;
        if state.running.len() >= MOST_THREADS && state.running.iter().all(stuck) {
            return Err(Failure::endless());
        }
        if state.waiting.len() >= MOST_WAITING {
            return Err(Failure::busy());
        }
        state.waiting.push_back(Waiting { job, until: now + self.longest });
        let begin = state.waiting.len() > state.idle && state.alive < MOST_THREADS;
        state.alive += usize::from(begin);
        drop(state);
        if !begin {
            self.shared.work.notify_one();
            return Ok(());
        }
        begin_one(&self.shared, self.stack)
    }
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// A thread that has time.
    ToBegin,
    /// The job's end.
    ToEnd,
}

/// What a job came to that will never tell.
fn ended(begun: &AtomicBool) -> Failure {
    if begun.load(Ordering::Acquire) { Failure::other("rendering it panicked") } else { Failure::busy() }
}

/// Begins a thread that is counted as alive already.
fn begin_one(shared: &Arc<Shared>, stack: usize) -> Result<(), Failure> {
    let own = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(stack);
    let Err(why) = thread.spawn(move || work(&own, stack)) else { return Ok(()) };
    let mut state = shared.state.lock();
    state.alive -= 1;
    // others may take the job yet
    if state.alive > 0 {
        return Ok(());
    }
    state.waiting.clear();
    tracing::error!(%why, "there is no thread to render templates on");
    Err(Failure::busy())
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.work.notify_all();
    }
}

fn work(shared: &Arc<Shared>, stack: usize) {
    let mut state = shared.state.lock();
    loop {
        if let Some(Waiting { job, until }) = state.waiting.pop_front() {
            let began = Instant::now();
            if began > until {
                // nobody waits for it any more
                parking_lot::MutexGuard::unlocked(&mut state, || drop(job));
                continue;
            }
            state.running.push(began);
            drop(state);
            let done = catch_unwind(AssertUnwindSafe(job));
            state = shared.state.lock();
            if let Some(at) = state.running.iter().position(|other| *other == began) {
                state.running.swap_remove(at);
            }
            let (after, tell) = match done {
                Ok((after, tell)) => (after, Some(tell)),
                Err(_) => (After::Leave, None),
            };
            if after == After::Stay {
                if let Some(tell) = tell {
                    parking_lot::MutexGuard::unlocked(&mut state, tell);
                }
                continue;
            }
            let replaced = !state.waiting.is_empty();
            state.alive -= usize::from(!replaced);
            drop(state);
            if let Some(tell) = tell {
                tell();
            }
            if replaced && let Err(failure) = begin_one(shared, stack) {
                tracing::error!(?failure, "a thread for templates");
            }
            return;
        }
        if state.closed {
            break;
        }
        state.idle += 1;
        let waited = shared.work.wait_for(&mut state, IDLE);
        state.idle -= 1;
        if waited.timed_out() && state.waiting.is_empty() {
            break;
        }
    }
    state.alive -= 1;
}
