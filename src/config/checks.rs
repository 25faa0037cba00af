//! What is to be checked of each answer, as plain data. `quality` makes working checks of it.

use std::time::Duration;

use serde_json::Value as Json;

use crate::ids::{CheckName, Score};

/// One check of a model's answers.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckSpec {
    /// Its name in metrics and verdicts; no other check of the model has it.
    pub name: CheckName,
    /// Its line in the config file, for what can only be found wrong later.
    pub line: u64,
    /// What it looks at.
    pub kind: CheckKind,
}

/// What of an answer a check judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judges {
    /// What it says.
    Content,
    /// When it came. Of an answer that nobody waited for, that means nothing.
    Time,
    /// What its reader thinks of it, who says so later or never.
    Reception,
}

impl CheckKind {
    /// What of an answer it judges.
    pub fn judges(&self) -> Judges {
        match self {
            Self::Latency { .. } => Judges::Time,
            Self::Feedback { .. } => Judges::Reception,
            _ => Judges::Content,
        }
    }
}

/// What a check looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// The answer is one JSON value.
    IsJson,
    /// The answer is JSON that a schema allows.
    JsonSchema {
        /// The schema, from the config or from its own file.
        schema: Json,
    },
    /// The answer's text matches, or does not match.
    Text {
        /// What is looked for.
        rule: TextRule,
        /// Whether it is to be found.
        expect: Expect,
    },
    /// The answer means what a reference says, or does not.
    Similar {
        /// The references, of which the nearest counts; none is empty, and there is at least one.
        references: Vec<String>,
        /// The least cosine of the embeddings at which two texts are similar.
        threshold: Cosine,
        /// Whether one is to be similar.
        expect: Expect,
    },
    /// The answer is neither too short nor too long. At least one bound is given, and `min` is not above `max`.
    Length {
        /// What is counted.
        unit: LengthUnit,
        /// At least so many.
        min: Option<usize>,
        /// At most so many.
        max: Option<usize>,
    },
    /// The answer does not refuse.
    Refusal {
        /// Further phrases of a refusal.
        phrases: Vec<String>,
        /// What becomes of the built-in phrases.
        list: PhraseList,
    },
    /// The answer is in one of these languages.
    Language {
        /// ISO 639-1 codes; never empty.
        codes: Vec<String>,
    },
    /// The answer came in time.
    Latency {
        /// Which time.
        of: Clock,
        /// The longest that passes.
        max: Duration,
    },
    /// The answer ended for one of these reasons.
    FinishReason {
        /// The reasons that pass; never empty.
        allowed: Vec<FinishReason>,
    },
    /// The user's own word about the answer; see `POST /v1/feedback`.
    Feedback {
        /// The least score that passes.
        threshold: Score,
    },
    /// Each call of a tool names a tool of the request, with arguments that its schema allows.
    ToolCallValid,
}

/// What is looked for in an answer's text.
#[derive(Debug, Clone, PartialEq)]
pub enum TextRule {
    /// A regular expression that matches somewhere.
    Regex(String),
    /// Texts that occur.
    Contains {
        /// The texts; none is empty, and there is at least one.
        needles: Vec<String>,
        /// How many of them.
        needed: Needed,
        /// Whether capitals count.
        case: Case,
    },
    /// The whole answer.
    Equals(EqualTo),
    /// How it begins.
    StartsWith(String),
}

/// How near two texts must be, as the cosine of their embeddings: above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Cosine(f64);

impl Cosine {
    /// What a `similar` check asks for unless it says otherwise, as in promptfoo.
    pub const DEFAULT: Self = Self(0.75);

    /// A threshold; `None` unless it is above 0 and at most 1.
    pub fn new(cosine: f64) -> Option<Self> {
        (cosine > 0.0 && cosine <= 1.0).then_some(Self(cosine))
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// Whether something is to be found in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It is.
    Match,
    /// It must not be.
    NoMatch,
}

/// How many of several texts are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// One at least.
    Any,
    /// All.
    All,
}

/// Whether capital and small letters differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// They differ.
    Sensitive,
    /// They are the same.
    Insensitive,
}

/// What a whole answer is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum EqualTo {
    /// A text, to the letter.
    Text(String),
    /// A JSON value: spaces and the order of keys do not count.
    Json(Json),
}

/// What a length is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthUnit {
    /// Characters (Unicode scalar values).
    Chars,
    /// Words: what stands between spaces.
    Words,
    /// Tokens of the version's own tokenizer, as billed.
    Tokens,
}

/// What becomes of the built-in phrases of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhraseList {
    /// The given phrases are added to them.
    Extend,
    /// The given phrases take their place.
    Replace,
}

/// Which time of an answer is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// From admission to the last token.
    Total,
    /// From admission to the first token.
    FirstToken,
}

/// Why an answer ended, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// By itself, or at a stop text.
    Stop,
    /// At its most tokens.
    Length,
    /// To have tools called.
    ToolCalls,
    /// A filter ended it.
    ContentFilter,
}

impl FinishReason {
    /// All of them, with their names.
    pub const ALL: [(&str, Self); 4] = [
        ("stop", Self::Stop),
        ("length", Self::Length),
        ("tool_calls", Self::ToolCalls),
        ("content_filter", Self::ContentFilter),
    ];

    /// The name that clients see.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
        }
    }
}
