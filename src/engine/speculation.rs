//! Guesses of a context's next tokens, which a step checks beside the token that it computes anyway (Leviathan et al.,
//! 2023). They cost rows, and those are all but free while a step is bound by the bytes of the weights.
//!
//! By prompt lookup: what followed the last time that the context read as it does at its end. Answers repeat their prompt
//! where they quote, correct or fill in, and each other's phrases. Pure: a function of the tokens.
//!
//! A guess never changes an answer. The choice at each row is made as it would be without any, by the request's own
//! settings and random number for that position; a guess that it equals has saved a step, and what follows one that it
//! does not equal is thrown away. So nothing has to be rejected and drawn anew, and sampling keeps its distribution.

/// The longest and the shortest ending that is looked up.
const ENDINGS: [usize; 2] = [4, 2];

/// The most rows of a step that guesses may fill it up to: beyond, a step takes longer by each.
pub(super) const MOST_GUESSING_ROWS: usize = 8;

/// How much of a sequence is guessed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guessing {
    /// The most tokens at once.
    most: usize,
    /// As many as were right last time, and one more.
    now: usize,
    /// The context's length when its answer is at its longest.
    end: usize,
}

impl Guessing {
    /// Nothing is guessed.
    pub(super) const NEVER: Self = Self { most: 0, now: 0, end: 0 };

    /// At most so many tokens at once, of a context that ends at `end` tokens at the latest.
    pub(super) const fn up_to(most: usize, end: usize) -> Self {
        Self { most, now: most, end }
    }

    /// What may follow `tokens`, at most `room` of it. The choice after it is no guess, and must have a place, too.
    pub(super) fn guess<'t>(&self, tokens: &'t [u32], room: usize) -> &'t [u32] {
        let left = self.end.saturating_sub(tokens.len() + 1);
        let most = self.now.min(room).min(left);
        if most == 0 { &[] } else { look_up(tokens, most) }
    }

    /// Notes that the first `right` of some guesses were.
    pub(super) fn learn(&mut self, right: usize) {
        self.now = (right + 1).min(self.most);
    }
}

/// Tokens at the end of a context that are looked through: no more, as each step does it.
const MOST_LOOKED_THROUGH: usize = 8192;

/// What followed the latest earlier place that reads as `tokens` end, by the longest ending that is found.
fn look_up(tokens: &[u32], most: usize) -> &[u32] {
    let [longest, shortest] = ENDINGS;
    let tokens = &tokens[tokens.len().saturating_sub(MOST_LOOKED_THROUGH)..];
    for n in (shortest..=longest.min(tokens.len().saturating_sub(1))).rev() {
        let (before, ending) = (&tokens[..tokens.len() - 1], &tokens[tokens.len() - n..]);
        if let Some(at) = before.windows(n).rposition(|window| window == ending) {
            let follows = &tokens[at + n..];
            return &follows[..most.min(follows.len())];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ECHO, FakeLm, Fault};
    use super::super::tests::{Told, config, listen, request, start};
    use super::super::{EngineConfig, GenerateRequest, SamplingParams};
    use super::*;

    #[test]
    fn the_longest_ending_tells_and_of_equals_the_latest() {
        // 7 8 is followed by 1 here and by 2 there; 5 7 8 only by 1
        assert_eq!(look_up(&[5, 7, 8, 1, 9, 7, 8, 2, 5, 7, 8], 2), [1, 9]);
        assert_eq!(look_up(&[7, 8, 1, 3, 7, 8, 2, 4, 7, 8], 3), [2, 4, 7]);
        assert_eq!(look_up(&[1, 1, 1, 1], 4), [1], "what it is itself a part of");
        for unknown in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4]] {
            assert!(look_up(unknown, 4).is_empty(), "{unknown:?}");
        }
    }

    #[test]
    fn guesses_are_as_many_as_were_right_and_have_room() {
        let tokens = [1, 2, 3, 4, 5, 6, 1, 2];
        let mut guessing = Guessing::up_to(4, 100);
        assert_eq!(guessing.guess(&tokens, 9), [3, 4, 5, 6]);
        assert_eq!(guessing.guess(&tokens, 2), [3, 4]);
        assert!(Guessing::up_to(4, 9).guess(&tokens, 9).is_empty(), "only the choice has a place");
        assert_eq!(Guessing::up_to(4, 11).guess(&tokens, 9), [3, 4]);
        guessing.learn(0);
        assert_eq!(guessing.guess(&tokens, 9), [3]);
        guessing.learn(1);
        assert_eq!(guessing.guess(&tokens, 9), [3, 4]);
        guessing.learn(9);
        assert_eq!(guessing.guess(&tokens, 9).len(), 4);
        assert!(Guessing::NEVER.guess(&tokens, 9).is_empty());
    }
    /// Requests of all kinds that have no grammar, whose prompts read alike in places.
    fn requests() -> Vec<GenerateRequest> {
        let phrase: Vec<u32> = (0..ECHO as u32).map(|i| 97 + i * 5 % 26).collect();
        let of = |i: usize| {
            let prompt = [&phrase[i % 3..], &phrase[..], &[i as u32, 65]].concat();
            let plain = request(&prompt, 1 + i * 7 % 40);
            let seeded = SamplingParams { temperature: 0.7, seed: i as u64, ..SamplingParams::default() };
            match i % 4 {
                0 => plain,
                1 => GenerateRequest { sampling: seeded, ..plain },
                2 => GenerateRequest {
                    sampling: SamplingParams { frequency_penalty: 0.3, repetition_penalty: 1.1, ..seeded },
                    min_tokens: 5,
                    ..plain
                },
                _ => GenerateRequest { logprobs: Some(2), prompt_logprobs: Some(0), ..plain },
            }
        };
        (0..24).map(of).collect()
    }

    /// What an engine that guesses so much tells of all of them, a few at a time; and its steps, guesses and right ones.
    async fn told(speculative_tokens: usize, together: usize) -> (Vec<Told>, [u64; 3]) {
        let lm = FakeLm::new(Fault::Nothing).echoing();
        let engine = start(lm, EngineConfig { speculative_tokens, block_size: 8, ..config() });
        let mut all = Vec::new();
        for few in requests().chunks(together) {
            let generations = few.iter().map(|request| engine.submit(request.clone()).unwrap());
            all.extend(futures::future::join_all(generations.map(listen)).await);
        }
        let stats = engine.stats();
        (all, [stats.steps, stats.speculated_tokens, stats.accepted_tokens])
    }

    #[tokio::test]
    async fn answers_are_the_same_to_the_token_and_come_in_fewer_steps() {
        for together in [1, 3] {
            let (plain, [steps, guessed, _]) = told(0, together).await;
            assert_eq!(guessed, 0);
            let (speculated, [fewer, guessed, right]) = told(4, together).await;
            assert_eq!(speculated, plain);
            assert!(0 < right && right < guessed, "{right} of {guessed}: both kinds are to come up");
            assert!(fewer < steps, "{fewer} steps with {right} guesses that were right, {steps} without");
        }
    }

    /// A step of many sequences has work enough.
    #[tokio::test]
    async fn nothing_is_guessed_while_many_run() {
        let (plain, _) = told(0, 24).await;
        let (speculated, [_, guessed, _]) = told(4, 24).await;
        assert_eq!(speculated, plain);
        assert!(guessed < 24 * 4, "{guessed}: only while the last few run");
    }
}
