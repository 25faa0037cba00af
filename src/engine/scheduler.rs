//! Decides what the next forward pass computes. Pure: no clock, no channel, no model.
//!
//! First come, first served, but for ranks: the lower goes first, and of equals who came first. Who goes first is called older
//! here, whenever he came. Every sequence that is ready for its next token gets it in every step; what is left of the
//! step's budget goes to prompts, in chunks, and to tokens that a grammar forced after one that was chosen. When the blocks run out, the youngest is set aside and computed anew
//! later. In one engine, nobody who runs is set aside for one who waits. The oldest that runs can always have all the blocks, so
//! each step makes progress. What two prompts have in common is computed once, even where they come together: the second
//! waits for it.
//!
//! That holds in each of two lanes, one a [`Priority`]. A step is of one lane. The other keeps its blocks meanwhile, but
//! the foreground takes them from the background where it needs them.

use std::collections::VecDeque;

use super::block_pool::{BlockPool, PrefixId};
use super::config::PrefixCache;
use super::draft::Drafted;
use super::kv_memory::{Need, Want};
use super::plan::{Budget, Plan};
use super::sequence::{Age, Sequence, SequenceId, State};
use super::turns::Priority;

/// The most prompt rows of a step in the background: it is to be over soon.
const BACKGROUND_ROWS: usize = 32;

/// The limits that a schedule keeps to.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) blocks: usize,
    pub(super) block_size: usize,
    pub(super) max_running: usize,
    pub(super) max_step_tokens: usize,
    pub(super) prefix_cache: PrefixCache,
}

/// What becomes of the youngest sequence of a lane where there is no block for it to go on in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking {
    /// It gives up what it has.
    SetAside,
    /// It keeps that and waits: others have blocks, and have been asked for some.
    Wait,
}

/// Whether a lane's sequences had to go for older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SetAside {
    Nobody,
    Some,
}

/// All sequences of one engine and their blocks.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    foreground: Lane,
    background: Lane,
    preemptions: u64,
}

/// The sequences of one priority.
#[derive(Debug, Default)]
struct Lane {
    /// Oldest first, and so by their ids.
    running: Vec<Sequence>,
    /// Oldest first.
    waiting: VecDeque<Sequence>,
}

impl Lane {
    /// The place of a running sequence.
    fn find(&self, id: SequenceId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |s| s.id).ok()
    }

    /// Takes one in that waits.
    fn wait(&mut self, sequence: Sequence) {
        let place = self.waiting.partition_point(|s| s.id < sequence.id);
        self.waiting.insert(place, sequence);
    }

    /// Takes one in that runs.
    fn run(&mut self, sequence: Sequence) {
        let place = self.running.partition_point(|s| s.id < sequence.id);
        self.running.insert(place, sequence);
    }

    /// How many are ready for their next token.
    fn decoding(&self) -> usize {
        self.running.iter().filter(|s| s.decodes()).count()
    }

    /// Whether the first `end` tokens of one that waits are those of a prompt that is being read, and not read so far: a step
    /// later the cache has them, and who is let in now would compute them, too.
    fn is_computing(&self, waiting: &Sequence, end: usize) -> bool {
        if waiting.wants_scores() || end >= waiting.tokens.len() {
            return false;
        }
        let is_reading =
            |s: &&Sequence| s.variant == waiting.variant && s.remaining() > 1 && s.computed() < end;
        let beginning = Some(&waiting.tokens[..end]);
        self.running.iter().filter(is_reading).any(|s| s.tokens.get(..end) == beginning)
    }
}

fn running<'s>(
    foreground: &'s mut Lane,
    background: &'s mut Lane,
    id: SequenceId,
) -> Option<&'s mut Sequence> {
    let lane = if foreground.find(id).is_some() { foreground } else { background };
    let i = lane.find(id)?;
    Some(&mut lane.running[i])
}

impl Scheduler {
    /// A scheduler with no sequences.
    pub(super) fn new(limits: Limits) -> Self {
        let pool = BlockPool::new(limits.blocks);
        Self { limits, pool, foreground: Lane::default(), background: Lane::default(), preemptions: 0 }
    }

    /// Where prefixes begin of contexts that go through an adapter that is new.
    pub(super) fn root(&mut self) -> PrefixId {
        self.pool.root()
    }

    /// Takes a sequence in at its place among those of its lane that wait. It must fit the pool when nothing else is there.
    pub(super) fn add(&mut self, sequence: Sequence, priority: Priority) {
        self.lane_mut(priority).wait(sequence);
    }

    /// Takes a sequence out and frees its blocks.
    pub(super) fn remove(&mut self, id: SequenceId) {
        for lane in [&mut self.foreground, &mut self.background] {
            if let Some(i) = lane.find(id) {
                free(&mut self.pool, &mut lane.running.remove(i));
                return;
            }
            lane.waiting.retain(|s| s.id != id);
        }
    }

    /// Gives a running sequence its next token; several before it is computed again where they are known at once.
    pub(super) fn append(&mut self, id: SequenceId, token: u32) {
        if let Some(sequence) = self.get_mut(id) {
            sequence.tokens.push(token);
        }
    }

    /// A running sequence.
    pub(super) fn get(&self, id: SequenceId) -> Option<&Sequence> {
        [&self.foreground, &self.background].into_iter().find_map(|lane| Some(&lane.running[lane.find(id)?]))
    }

    fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        running(&mut self.foreground, &mut self.background, id)
    }

    /// Sequences that hold blocks.
    pub(super) fn running(&self) -> impl Iterator<Item = SequenceId> {
        self.foreground.running.iter().chain(&self.background.running).map(|s| s.id)
    }

    /// Sequences that ran before and were set aside.
    pub(super) fn set_aside(&self) -> impl Iterator<Item = SequenceId> {
        let waiting = self.foreground.waiting.iter().chain(&self.background.waiting);
        waiting.filter(|s| s.cached.is_some()).map(|s| s.id)
    }

    /// How often a sequence was set aside to make room.
    pub(super) fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Blocks that running sequences hold.
    pub(super) fn blocks_used(&self) -> usize {
        self.pool.used()
    }

    /// How many sequences a lane has.
    pub(super) fn len(&self, priority: Priority) -> usize {
        let lane = self.lane(priority);
        lane.running.len() + lane.waiting.len()
    }

    /// The blocks that the next step of a lane lacks.
    pub(super) fn need(&self, priority: Priority) -> Need {
        let Limits { block_size, max_running, max_step_tokens, .. } = self.limits;
        let lane = self.lane(priority);
        let growing: usize = lane.running.iter().map(|s| s.lacks(block_size)).sum();
        let places = max_running.saturating_sub(lane.running.len());
        let mut waiting = lane.waiting.iter().take(places);
        let first = waiting.next();
        // no step admits more than have a row in it
        let mut rows = max_step_tokens;
        let later = waiting.map_while(|s| {
            rows = rows.checked_sub(s.tokens.len())?;
            // and one more in reserve, as each that runs will soon need it
            Some(s.tokens.len().div_ceil(block_size) + 1)
        });
        let later: usize = first.map_or(0, |_| later.sum());
        let to_admit = first.map_or(0, |first| first.tokens.len().div_ceil(block_size) + lane.running.len());
        // what is had without asking anybody
        let own = self.pool.available() + self.yields_to(priority);
        let must = if growing > own {
            // the rest comes from those of the lane that are younger
            let oldest = lane.running.iter().find(|s| s.has_outgrown(block_size));
            oldest.map(|oldest| (oldest.id, oldest.lacks(block_size)))
        } else if growing + to_admit > own {
            // with ranks, it may go before some that run; those grow into what they are given first, so others need not
            let goes_next = |first: &&Sequence| lane.running.last().is_none_or(|last| last.id < first.id);
            first
                .filter(goes_next)
                .map(|first| (first.id, (growing + self.to_admit(first, lane)).saturating_sub(own)))
        } else {
            None
        };
        let must = must.filter(|(_, blocks)| *blocks > 0);
        let must = must.map(|(id, blocks)| Want { age: Age { priority, id }, blocks });
        // empty ones come before those that keep a prefix
        let more = (growing + to_admit + later).saturating_sub(self.pool.empties());
        Need { must, more: more.saturating_sub(must.map_or(0, |must| must.blocks)) }
    }

    /// Whether there is such a sequence, and it waits for blocks or for more of them.
    pub(super) fn lacks_blocks(&self, Age { priority, id }: Age) -> bool {
        let lane = self.lane(priority);
        let outgrown = |s: &Sequence| s.id == id && s.has_outgrown(self.limits.block_size);
        lane.running.iter().any(outgrown) || lane.waiting.iter().any(|s| s.id == id)
    }

    /// Blocks that sequences of the other lane hold and that a lane may take from them.
    fn yields_to(&self, priority: Priority) -> usize {
        match priority {
            Priority::Foreground => self.background.running.iter().map(Sequence::blocks).sum(),
            Priority::Background => 0,
        }
    }

    /// The blocks that have to be available for a sequence to be admitted, those with a known prefix of it included, which
    /// nobody holds.
    fn to_admit(&self, sequence: &Sequence, lane: &Lane) -> usize {
        let size = self.limits.block_size;
        let (known, unheld) = match self.limits.prefix_cache {
            PrefixCache::On if !sequence.wants_scores() => {
                let pieces = sequence.tokens[..sequence.tokens.len() - 1].chunks_exact(size);
                self.pool.known(sequence.variant.root, pieces)
            }
            PrefixCache::On | PrefixCache::Off => (0, 0),
        };
        sequence.tokens.len().div_ceil(size) - known + unheld + lane.running.len()
    }

    /// Takes empty blocks in.
    pub(super) fn stock(&mut self, blocks: Vec<u32>) {
        self.pool.stock(blocks);
    }

    /// Gives all empty blocks away, and at most so many more that only keep a prefix.
    pub(super) fn spare(&mut self, prefixes: usize) -> Vec<u32> {
        let mut blocks = self.pool.spare_empty();
        blocks.extend(self.pool.spare(prefixes));
        blocks
    }

    /// Gives away what others lack for a sequence, as far as nothing that is older needs it.
    pub(super) fn give_way(&mut self, to: Want) -> Vec<u32> {
        for priority in [Priority::Background, Priority::Foreground] {
            let younger =
                |lane: &Lane| lane.running.last().is_some_and(|s| Age { priority, id: s.id } > to.age);
            while self.pool.available() < to.blocks && younger(self.lane(priority)) {
                self.set_youngest_aside(priority);
            }
        }
        self.pool.spare(to.blocks)
    }

    /// The next step of a lane. Empty only if the lane is, if others have the blocks that it needs, or if it is the
    /// background and the foreground is not empty.
    pub(super) fn plan(&mut self, priority: Priority, lacking: Lacking) -> Plan {
        let set_aside = self.make_room(priority, lacking);
        let mut plan = Plan::default();
        let most = match priority {
            Priority::Foreground => self.limits.max_step_tokens,
            Priority::Background => self.limits.max_step_tokens.min(BACKGROUND_ROWS),
        };
        let block_size = self.limits.block_size;
        let lane = self.lane(priority);
        let mut budget = Budget::new(most, lane.decoding());
        for sequence in lane.running.iter().filter(|s| !s.has_outgrown(block_size)) {
            let (rows, guesses) = if sequence.decodes() {
                let guesses = budget.guess(sequence, block_size);
                (1 + budget.spend_on(sequence.remaining() - 1), guesses)
            } else {
                (budget.spend(sequence), &[][..])
            };
            plan.push(sequence, rows, guesses, block_size);
        }
        // Who was just set aside would come straight back and be set aside again.
        while set_aside == SetAside::Nobody
            && budget.rows > 0
            && self.lane(priority).running.len() < self.limits.max_running
        {
            let Some(sequence) = self.admit(priority) else { break };
            let rows = budget.spend(&sequence);
            plan.push(&sequence, rows, &[], block_size);
            self.lane_mut(priority).run(sequence);
        }
        plan
    }

    /// Notes that a plan was computed, and lets others find the blocks that it filled.
    pub(super) fn computed(&mut self, plan: &Plan) {
        let size = self.limits.block_size;
        for part in &plan.parts {
            let Some(sequence) = running(&mut self.foreground, &mut self.background, part.id) else {
                continue;
            };
            sequence.computed_to(part.positions.end);
            let root = sequence.variant.root;
            let State::Running { blocks, prefixes, computed, .. } = &mut sequence.state else { continue };
            if self.limits.prefix_cache == PrefixCache::Off {
                continue;
            }
            let full = &blocks[..*computed / size];
            for (block, tokens) in full.iter().zip(sequence.tokens.chunks_exact(size)).skip(prefixes.len()) {
                let parent = prefixes.last().copied().unwrap_or(root);
                prefixes.push(self.pool.publish(block, parent, tokens));
            }
        }
    }

    /// Gives clients' contexts that are ready for their next token a block for what may be guessed of them, where they have no
    /// room for that and there are blocks that nobody needs soon.
    pub(super) fn make_room_for_guesses(&mut self) {
        let (size, most) = (self.limits.block_size, self.guesses_each());
        let reserve = self.foreground.running.len();
        for sequence in &mut self.foreground.running {
            let lacks_room = sequence.to_guess(most, size) < sequence.wants_guesses(most);
            if lacks_room
                && self.pool.available() > reserve
                && let Some(block) = self.pool.allocate()
            {
                sequence.grow(block);
            }
        }
    }

    /// Clients' contexts that are ready for their next token, and how much is to be guessed of each.
    pub(super) fn guessable(&mut self) -> impl Iterator<Item = (&mut Sequence, usize)> {
        let (size, most) = (self.limits.block_size, self.guesses_each());
        let guessed = self.foreground.running.iter_mut().map(move |sequence| {
            let most = sequence.to_guess(most, size);
            (sequence, most)
        });
        guessed.filter(|(_, most)| *most > 0)
    }

    /// The most that the next step has room to guess of each client's context.
    fn guesses_each(&self) -> usize {
        Budget::new(self.limits.max_step_tokens, self.foreground.decoding()).guesses
    }

    /// Notes what a smaller model has guessed to follow a context; nothing counts as wrong.
    pub(super) fn drafted(&mut self, id: SequenceId, guesses: Vec<u32>) {
        let Some(sequence) = self.get_mut(id) else { return };
        if guesses.is_empty() {
            sequence.confirmed(0);
        } else if let State::Running { drafted, .. } = &mut sequence.state {
            drafted.guess(guesses);
        }
    }

    /// From now on, contexts are looked through.
    pub(super) fn guess_by_lookup(&mut self) {
        for lane in [&mut self.foreground, &mut self.background] {
            lane.running.iter_mut().chain(&mut lane.waiting).for_each(Sequence::guess_by_lookup);
        }
    }

    /// Notes that the first `right` of the tokens that were guessed of a sequence are its own by now: their keys and values
    /// are there.
    pub(super) fn confirmed(&mut self, id: SequenceId, right: usize) {
        if let Some(sequence) = self.get_mut(id) {
            sequence.confirmed(right);
        }
    }

    /// Gives every sequence of a lane that has outgrown its blocks another one, setting the youngest aside for the older
    /// where none is left.
    fn make_room(&mut self, priority: Priority, lacking: Lacking) -> SetAside {
        let mut set_aside = SetAside::Nobody;
        let mut i = 0;
        while i < self.lane(priority).running.len() {
            let size = self.limits.block_size;
            let (pool, lane) = self.parts(priority);
            let youngest = i + 1 == lane.running.len();
            let sequence = &mut lane.running[i];
            if !sequence.has_outgrown(size) {
                i += 1;
            } else if let Some(block) = pool.allocate() {
                sequence.grow(block);
            } else if priority == Priority::Background || !self.set_background_aside() {
                if youngest && lacking == Lacking::Wait {
                    break;
                }
                // The youngest may be the one in need; then it goes itself.
                self.set_youngest_aside(priority);
                set_aside = SetAside::Some;
            }
        }
        set_aside
    }

    /// The oldest waiting sequence of a lane with blocks for all its tokens, if there is room beside those that run and none
    /// of them is about to compute what it begins with.
    fn admit(&mut self, priority: Priority) -> Option<Sequence> {
        let size = self.limits.block_size;
        let prefix_cache = self.limits.prefix_cache;
        let (pool, lane) = self.parts(priority);
        let sequence = lane.waiting.front()?;
        let (mut blocks, mut prefixes) = (Vec::new(), Vec::new());
        if prefix_cache == PrefixCache::On && !sequence.wants_scores() {
            // The last token is always computed: its logits are what is wanted.
            for tokens in sequence.tokens[..sequence.tokens.len() - 1].chunks_exact(size) {
                let parent = prefixes.last().copied().unwrap_or(sequence.variant.root);
                let Some((block, id)) = pool.find(parent, tokens) else { break };
                blocks.push(block);
                prefixes.push(id);
            }
        }
        let hit = blocks.len() * size;
        if prefix_cache == PrefixCache::On && lane.is_computing(sequence, hit + size) {
            pool.release(blocks);
            return None;
        }
        let missing = sequence.tokens.len().div_ceil(size) - blocks.len();
        // Each running sequence soon needs another block: without this reserve, who is let in is soon put out.
        let reserve = lane.running.len();
        while self.pool.available() < missing + reserve {
            if priority == Priority::Background || !self.set_background_aside() {
                self.pool.release(blocks);
                return None;
            }
        }
        blocks.extend((0..missing).filter_map(|_| self.pool.allocate()));
        let mut sequence = self.lane_mut(priority).waiting.pop_front()?;
        sequence.cached.get_or_insert(hit);
        sequence.state = State::Running { blocks, prefixes, computed: hit, drafted: Drafted::default() };
        Some(sequence)
    }

    /// Takes its blocks from the youngest sequence of the background; false if none holds any.
    fn set_background_aside(&mut self) -> bool {
        self.set_youngest_aside(Priority::Background)
    }

    fn set_youngest_aside(&mut self, priority: Priority) -> bool {
        let (pool, lane) = self.parts(priority);
        let Some(mut youngest) = lane.running.pop() else { return false };
        free(pool, &mut youngest);
        lane.wait(youngest);
        self.preemptions += 1;
        true
    }

    fn parts(&mut self, priority: Priority) -> (&mut BlockPool, &mut Lane) {
        match priority {
            Priority::Foreground => (&mut self.pool, &mut self.foreground),
            Priority::Background => (&mut self.pool, &mut self.background),
        }
    }

    fn lane(&self, priority: Priority) -> &Lane {
        match priority {
            Priority::Foreground => &self.foreground,
            Priority::Background => &self.background,
        }
    }

    fn lane_mut(&mut self, priority: Priority) -> &mut Lane {
        self.parts(priority).1
    }
}

/// Frees a sequence's blocks.
fn free(pool: &mut BlockPool, sequence: &mut Sequence) {
    if let State::Running { blocks, .. } = std::mem::replace(&mut sequence.state, State::Waiting) {
        pool.release(blocks);
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
