//! How texts are cut before bytes are merged: what `tokenizer.ggml.pre` names.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Splitting {
    cuts: &'static [Cut],
    /// Texts are brought to normal form C before.
    pub(super) composes: bool,
    /// What is a token as a whole is not merged together.
    pub(super) whole_words: bool,
    /// A token begins each text where the file does not say whether one does.
    pub(super) begins: bool,
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// Each match is a piece, and so is what lies between two.
    At(&'static str),
    /// Each digit by itself.
    Digits,
}

// the expressions as the models' own tokenizer.json have them
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const PUNCTUATION: &str = r"[\p{P}$+<=>^~|]+";

const PLAIN: Splitting =
    Splitting { cuts: &[Cut::At(GPT2)], composes: false, whole_words: false, begins: false };

/// Names that stand for the same are in one row.
const ALL: [(&[&str], Splitting); 9] = [
    (&["gpt-2", "phi-2", "olmo", "mpt"], PLAIN),
    (
        &["llama-bpe", "llama3", "llama-v3"],
        Splitting { cuts: &[Cut::At(LLAMA3)], whole_words: true, begins: true, ..PLAIN },
    ),
    (&["smaug-bpe", "dbrx"], Splitting { cuts: &[Cut::At(LLAMA3)], ..PLAIN }),
    (&["qwen2"], Splitting { cuts: &[Cut::At(QWEN2)], composes: true, ..PLAIN }),
    (&["deepseek-r1-qwen"], Splitting { cuts: &[Cut::At(QWEN2)], ..PLAIN }),
    (&["smollm", "starcoder", "refact"], Splitting { cuts: &[Cut::Digits, Cut::At(GPT2)], ..PLAIN }),
    (&["tekken"], Splitting { cuts: &[Cut::At(TEKKEN)], whole_words: true, begins: true, ..PLAIN }),
    (&["gpt-4o"], Splitting { cuts: &[Cut::At(GPT4O)], ..PLAIN }),
    (
        &["default"],
        Splitting {
            cuts: &[Cut::At(PUNCTUATION), Cut::At(GPT2), Cut::At(r"\p{N}+"), Cut::At("[0-9][0-9][0-9]")],
            ..PLAIN
        },
    ),
];

impl Splitting {
    /// What a name stands for; the names that are known, if it is none.
    pub(super) fn named(name: &str) -> Result<&'static Self, String> {
        let found = ALL.iter().find(|(names, _)| names.contains(&name));
        found.map(|(_, splitting)| splitting).ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().flat_map(|(names, _)| names.iter().copied()).collect();
            known.join(", ")
        })
    }

    /// As the library cuts, and spells what it has cut byte by byte.
    pub(super) fn pre_tokenizer(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let mut all = Vec::new();
        for cut in self.cuts {
            all.push(match cut {
                Cut::Digits => Digits::new(true).into(),
                Cut::At(expression) => {
                    let pattern = SplitPattern::Regex((*expression).to_owned());
                    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into()
                }
            });
        }
        all.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(all).into())
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    fn pieces(name: &str, text: &str) -> String {
        let mut cut = PreTokenizedString::from(text);
        Splitting::named(name).unwrap().pre_tokenizer().unwrap().pre_tokenize(&mut cut).unwrap();
        let pieces = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(_, (start, end), _)| &text[start..end]).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn each_name_cuts_as_its_models_do() {
        for (names, text, expected) in [
            (&["gpt-2"][..], "It's 12345  ok!\n\nCAN'T", "It|'s| 12345| | ok|!|\n|\n|CAN|'|T"),
            (&["llama-bpe", "smaug-bpe"], "It's 12345  ok!\n\nCAN'T", "It|'s| |123|45| | ok|!\n\n|CAN|'T"),
            (&["qwen2", "deepseek-r1-qwen"], "It's 123  ok!\n\nCAN'T", "It|'s| |1|2|3| | ok|!\n\n|CAN|'T"),
            (&["smollm"], "It's 123  ok!\n\n", "It|'s| |1|2|3| | ok|!|\n\n"),
            (&["tekken"], "camelCase 12 a/\n it's", "camel|Case| |1|2| a|/\n| it|'s"),
            (&["gpt-4o"], "camelCase 1234 it's", "camel|Case| |123|4| it's"),
            (&["default"], "It's 12345 ok!", "It|'|s| |123|45| ok|!"),
        ] {
            for name in names {
                assert_eq!(pieces(name, text), expected, "{name}");
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_that_are_known() {
        let known = Splitting::named("bloom").unwrap_err();
        assert!(known.contains("llama-bpe, ") && known.contains("qwen2"), "{known}");
    }
}
