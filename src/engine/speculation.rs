//! Guesses of a context's next tokens, which a step checks beside the token that it computes anyway (Leviathan et al.,
//! 2023). They cost rows, and those are all but free while a step is bound by the bytes of the weights.
//!
//! By prompt lookup: what followed the last time that the context read as it does at its end. Answers repeat their prompt
//! where they quote, correct or fill in, and each other's phrases. Pure: a function of the tokens. Or by a smaller model: see
//! [`super::draft`].
//!
//! A guess never changes an answer. The choice at each row is made as it would be without any, by the request's own
//! settings and random number for that position; a guess that it equals has saved a step, and what follows one that it
//! does not equal is thrown away. So nothing has to be rejected and drawn anew, and sampling keeps its distribution.

/// The longest and the shortest ending that is looked up.
const ENDINGS: [usize; 2] = [4, 2];

/// The most rows of a step that guesses may fill it up to: beyond, a step takes longer by each.
pub(super) const MOST_GUESSING_ROWS: usize = 8;

/// Who guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuessedBy {
    /// Nobody: the context is looked through.
    Lookup,
    /// A smaller model.
    Draft,
}

/// A draft that is wrong so often in a row costs more than it saves, and pauses.
const MISSES: usize = 4;
/// For so many tokens.
const PAUSE: usize = 32;

/// How much of a sequence is guessed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guessing {
    /// The most tokens at once.
    most: usize,
    by: GuessedBy,
    /// As many as were right last time, and one more.
    now: usize,
    /// How often in a row none was.
    misses: usize,
    /// A draft guesses nothing of shorter contexts.
    rests_until: usize,
    /// The context's length when its answer is at its longest.
    end: usize,
}

impl Guessing {
    /// Nothing is guessed.
    pub(super) const NEVER: Self = Self::up_to(0, GuessedBy::Lookup, 0);

    /// At most so many tokens at once, of a context that ends at `end` tokens at the latest.
    pub(super) const fn up_to(most: usize, by: GuessedBy, end: usize) -> Self {
        Self { most, by, now: most, misses: 0, rests_until: 0, end }
    }

    /// Who guesses.
    pub(super) const fn by(&self) -> GuessedBy {
        self.by
    }

    /// How much is guessed of a context of so many tokens, with room for so many more. The choice after the guesses is none,
    /// and must have a place, too.
    pub(super) fn most(&self, tokens: usize, room: usize) -> usize {
        if tokens < self.rests_until {
            0
        } else {
            self.now.min(room).min(self.left(tokens).saturating_sub(1))
        }
    }

    /// The most tokens that may still follow so many.
    pub(super) fn left(&self, tokens: usize) -> usize {
        self.end.saturating_sub(tokens)
    }

    /// Notes that the first `right` of some guesses were, in a context that has so many tokens now. Looking up costs nothing;
    /// a draft's guesses do.
    pub(super) fn learn(&mut self, right: usize, tokens: usize) {
        self.now = (right + 1).min(self.most);
        self.misses = if right == 0 { self.misses + 1 } else { 0 };
        if self.by == GuessedBy::Draft && self.misses == MISSES {
            (self.misses, self.rests_until) = (0, tokens + PAUSE);
        }
    }

    /// From now on, the context is looked through.
    pub(super) fn look_up(&mut self) {
        (self.by, self.rests_until) = (GuessedBy::Lookup, 0);
    }
}

/// Tokens at the end of a context that are looked through: no more, as each step does it.
const MOST_LOOKED_THROUGH: usize = 8192;

/// What followed the latest earlier place that reads as `tokens` end, by the longest ending that is found.
pub(super) fn look_up(tokens: &[u32], most: usize) -> &[u32] {
    if most == 0 {
        return &[];
    }
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
        let up_to_four = |end| Guessing::up_to(4, GuessedBy::Lookup, end);
        let mut guessing = up_to_four(100);
        assert_eq!([9, 2].map(|room| guessing.most(8, room)), [4, 2]);
        assert_eq!(up_to_four(9).most(8, 9), 0, "only the choice has a place");
        assert_eq!(up_to_four(11).most(8, 9), 2);
        for (right, then) in [(0, 1), (1, 2), (9, 4)] {
            guessing.learn(right, 8);
            assert_eq!(guessing.most(8, 9), then);
        }
        assert_eq!(Guessing::NEVER.most(8, 9), 0);
    }

    #[test]
    fn a_draft_that_is_always_wrong_pauses_and_a_look_up_does_not() {
        for (by, then) in [(GuessedBy::Draft, 0), (GuessedBy::Lookup, 1)] {
            let mut guessing = Guessing::up_to(4, by, 100);
            (0..MISSES).for_each(|_| guessing.learn(0, 20));
            assert_eq!(guessing.most(20, 9), then);
            assert_eq!(guessing.most(20 + PAUSE, 9), 1);
            guessing.look_up();
            assert_eq!(guessing.most(20, 9), 1);
        }
    }
}
