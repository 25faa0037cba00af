//! Bytes of tokens to text, piece by piece. Never shows half a character or the beginning of a stop string.

use super::request::StopInclusion;

/// What the same bytes in one piece would become: each broken sequence is replaced, as `from_utf8_lossy` does.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Whether a text may end here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// Stop strings end it.
    Stops,
    /// Nothing does yet: everything is shown.
    Nothing,
}

/// What a token adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// This text; more may come.
    More(String),
    /// This text, and a stop string is complete: nothing follows.
    Stopped(String),
}

/// The text of one answer in the making.
#[derive(Debug)]
pub(super) struct Detokenizer {
    /// Bytes of a character that is not complete; at most three.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stops: Vec<String>,
    inclusion: StopInclusion,
}

impl Detokenizer {
    /// Empty stop strings mean nothing.
    pub(super) fn new(stops: Vec<String>, inclusion: StopInclusion) -> Self {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        Self { bytes: Vec::new(), held: String::new(), stops, inclusion }
    }

    /// Whether there is a stop string.
    pub(super) fn has_stops(&self) -> bool {
        !self.stops.is_empty()
    }

    /// Adds a token's bytes.
    pub(super) fn push(&mut self, bytes: &[u8], search: Search) -> Piece {
        self.bytes.extend_from_slice(bytes);
        self.take_characters();
        if search == Search::Nothing {
            return Piece::More(std::mem::take(&mut self.held));
        }
        if let Some((start, end)) = self.first_stop() {
            let cut = if self.inclusion == StopInclusion::Include { end } else { start };
            self.bytes.clear();
            let mut text = std::mem::take(&mut self.held);
            text.truncate(cut);
            return Piece::Stopped(text);
        }
        let rest = self.held.split_off(self.held.len() - self.beginning_of_stop());
        Piece::More(std::mem::replace(&mut self.held, rest))
    }

    /// What is left when no more tokens come.
    pub(super) fn finish(&mut self) -> String {
        let mut text = std::mem::take(&mut self.held);
        if !std::mem::take(&mut self.bytes).is_empty() {
            text.push(REPLACEMENT);
        }
        text
    }

    /// Moves all complete characters from the bytes to the text.
    fn take_characters(&mut self) {
        let mut bytes = self.bytes.as_slice();
        loop {
            match str::from_utf8(bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    bytes = &[];
                    break;
                }
                Err(error) => {
                    let (good, rest) = bytes.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(good));
                    bytes = rest;
                    let Some(broken) = error.error_len() else { break };
                    self.held.push(REPLACEMENT);
                    bytes = &rest[broken..];
                }
            }
        }
        let left = bytes.len();
        self.bytes.drain(..self.bytes.len() - left);
    }

    /// The stop string that is complete first; of those, the longest. So the cut of text into tokens does not matter.
    fn first_stop(&self) -> Option<(usize, usize)> {
        let ends = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start, start + stop.len()))
        });
        ends.min_by_key(|(start, end)| (*end, *start))
    }

    /// The length of the longest end of the text that a stop string begins with.
    fn beginning_of_stop(&self) -> usize {
        let longest = |stop: &String| {
            let most = (stop.len() - 1).min(self.held.len());
            let begins = |n: &usize| stop.is_char_boundary(*n) && self.held.ends_with(&stop[..*n]);
            (1..=most).rev().find(begins).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(tokens: &[&[u8]], stops: &[&str], inclusion: StopInclusion) -> (Vec<String>, bool) {
        let stops = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut detokenizer = Detokenizer::new(stops, inclusion);
        let mut pieces = Vec::new();
        for token in tokens {
            match detokenizer.push(token, Search::Stops) {
                Piece::More(text) => pieces.push(text),
                Piece::Stopped(text) => {
                    pieces.push(text);
                    assert_eq!(detokenizer.finish(), "");
                    return (pieces, true);
                }
            }
        }
        pieces.push(detokenizer.finish());
        (pieces, false)
    }

    /// The obvious twin: character by character, until one of the stops ends the text so far.
    fn reference(text: &str, stops: &[&str], inclusion: StopInclusion) -> (String, bool) {
        for (at, c) in text.char_indices() {
            let seen = &text[..at + c.len_utf8()];
            let longest = stops.iter().filter(|s| seen.ends_with(**s)).map(|s| s.len()).max();
            if let Some(longest) = longest {
                let cut = if inclusion == StopInclusion::Include { seen.len() } else { seen.len() - longest };
                return (seen[..cut].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn a_character_over_several_tokens_comes_whole() {
        let (pieces, _) = run(&[b"a\xf0", b"\x9f\x98", b"\x80!"], &[], StopInclusion::Exclude);
        assert_eq!(pieces, ["a", "", "\u{1f600}!", ""]);
    }

    #[test]
    fn half_a_character_at_the_end_is_replaced() {
        assert_eq!(run(&[b"a", b"\xf0\x9f"], &[], StopInclusion::Exclude).0.concat(), "a\u{fffd}");
    }

    #[test]
    fn a_possible_stop_is_held_back_and_shown_if_it_was_none() {
        let (pieces, stopped) = run(&[b"one EN", b"D", b"O"], &["END!"], StopInclusion::Exclude);
        assert_eq!((pieces, stopped), (["one ", "", "ENDO", ""].map(str::to_owned).to_vec(), false));
        let (pieces, stopped) = run(&[b"one EN", b"D", b"! more"], &["END!"], StopInclusion::Exclude);
        assert_eq!((pieces.concat(), stopped), ("one ".to_owned(), true));
    }

    #[test]
    fn before_the_least_tokens_a_stop_is_plain_text() {
        let mut detokenizer = Detokenizer::new(vec!["x".into()], StopInclusion::Exclude);
        assert_eq!(detokenizer.push(b"axb", Search::Nothing), Piece::More("axb".into()));
        assert_eq!(detokenizer.push(b"cxd", Search::Stops), Piece::Stopped("c".into()));
    }

    proptest! {
        #[test]
        fn any_cut_of_any_bytes_gives_the_text_of_the_whole(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'a'), Just(0xf0), Just(0x9f), Just(0x98)], 0..40),
            cuts in prop::collection::vec(1usize..5, 1..10),
        ) {
            let mut rest = bytes.as_slice();
            let mut tokens = Vec::new();
            for cut in cuts.iter().cycle().take(60) {
                let (token, more) = rest.split_at((*cut).min(rest.len()));
                tokens.push(token);
                rest = more;
            }
            let (pieces, _) = run(&tokens, &[], StopInclusion::Exclude);
            prop_assert_eq!(pieces.concat(), String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn stops_cut_the_text_at_the_same_place_however_it_comes(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cuts in prop::collection::vec(1usize..5, 1..10),
            include in any::<bool>(),
        ) {
            let inclusion = if include { StopInclusion::Include } else { StopInclusion::Exclude };
            let mut rest = text.as_bytes();
            let mut tokens = Vec::new();
            for cut in cuts.iter().cycle().take(60) {
                let (token, more) = rest.split_at((*cut).min(rest.len()));
                tokens.push(token);
                rest = more;
            }
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (pieces, stopped) = run(&tokens, &stops, inclusion);
            prop_assert_eq!((pieces.concat(), stopped), reference(&text, &stops, inclusion));
        }
    }
}
