//! The words that name things, parsed once at the edge: model, version and check names, digests, weights, answers, quantisations.
//!
//! A leaf: every room may import it, and it imports none.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a name, digest or weight was refused; says what was found and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A model, version or check name with a character outside the allowed set, or of a wrong length.
    #[error(
        "{kind} name {found:?} is not usable: use 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-', starting with a letter or digit"
    )]
    Name {
        /// "model", "version" or "check".
        kind: &'static str,
        /// What was given.
        found: String,
    },
    /// A digest that is not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("digest {found:?} is not usable: write `sha256:` and 64 lower-case hexadecimal digits")]
    Digest {
        /// What was given.
        found: String,
    },
    /// An id that no answer has.
    #[error(
        "response id {found:?} is not usable: give the `id` of an answer, such as `chatcmpl-` and 32 digits"
    )]
    Response {
        /// What was given, cut to a length fit for a message.
        found: String,
    },
    /// A score outside 0 to 1.
    #[error("score {found} is not usable: give a number from 0 (bad) to 1 (good)")]
    Score {
        /// What was given.
        found: String,
    },
    /// A weight outside 0 to 100 or finer than a hundredth of a percent.
    #[error("weight {found} is not usable: give a percentage from 0 to 100 with at most two decimals")]
    Weight {
        /// What was given.
        found: String,
    },
}

/// The longest name of one who changes something, in characters.
pub const MAX_ACTOR_CHARS: usize = 128;

/// Whether the audit log takes this name of one who changes something: not empty, not too long, and on one line.
pub fn is_actor(name: &str) -> bool {
    (1..=MAX_ACTOR_CHARS).contains(&name.chars().count()) && !name.contains(char::is_control)
}

fn is_name(s: &str) -> bool {
    (1..=64).contains(&s.len())
        && s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                if is_name(s) {
                    Ok(Self(s.into()))
                } else {
                    Err(IdError::Name { kind: $kind, found: s.to_owned() })
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.as_str().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name that a client sends in `model`: a served feature such as `support-assistant`.
    ModelName,
    "model"
);
name!(
    /// A version's name within its model, such as `v3`.
    VersionName,
    "version"
);
name!(
    /// A check's name within its model, such as `is-json`.
    CheckName,
    "check"
);

/// One version of one model, written `model@version`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionRef {
    /// The model.
    pub model: ModelName,
    /// The version within it.
    pub version: VersionName,
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.model, self.version)
    }
}

/// The number of a rollout; the store counts them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RolloutId(u32);

impl RolloutId {
    /// The rollout of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an experiment; the store counts them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExperimentId(u32);

impl ExperimentId {
    /// The experiment of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ExperimentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A sha256 digest, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps the 32 bytes of a finished sha256.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// The 64 hexadecimal digits without the `sha256:` prefix.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            for nibble in [byte >> 4, byte & 15] {
                hex.extend(char::from_digit(nibble.into(), 16));
            }
            hex
        })
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Digest { found: s.to_owned() };
        let hex = s.strip_prefix("sha256:").ok_or_else(wrong)?.as_bytes();
        if hex.len() != 64 || !hex.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let nibble = |b: u8| if b < b'a' { b - b'0' } else { b - b'a' + 10 };
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Self(out))
    }
}
impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}
impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.to_string()
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A version's share of a model's traffic, in hundredths of a percent (basis points), 0 to 10,000.
/// In JSON, YAML and on the command line it is a percentage: `5`, `2.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All traffic: 100 %.
    pub const FULL: Self = Self(10_000);

    /// From basis points; `None` above 10,000.
    pub const fn from_basis_points(bp: u16) -> Option<Self> {
        if bp <= 10_000 { Some(Self(bp)) } else { None }
    }

    /// The share in basis points, 0 to 10,000.
    pub const fn basis_points(self) -> u16 {
        self.0
    }

    /// From a percentage with at most two decimals.
    pub fn from_percent(percent: f64) -> Result<Self, IdError> {
        let wrong = || IdError::Weight { found: percent.to_string() };
        let bp = (percent * 100.0).round();
        if !(0.0..=10_000.0).contains(&bp) || (percent * 100.0 - bp).abs() > 1e-6 {
            return Err(wrong());
        }
        Ok(Self(bp as u16))
    }

    /// Whether the share holds this hash: so it does for so much of all hashes, and a larger share for the same and more.
    pub const fn holds(self, hash: u64) -> bool {
        hash % (Self::FULL.0 as u64) < self.0 as u64
    }

    /// The share as a percentage.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.percent())
    }
}
impl FromStr for Weight {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let percent = s.parse().map_err(|_| IdError::Weight { found: s.to_owned() })?;
        Self::from_percent(percent)
    }
}
impl Serialize for Weight {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            s.serialize_u16(self.0 / 100)
        } else {
            s.serialize_f64(self.percent())
        }
    }
}
impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::from_percent(f64::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Names one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResponseId(u128);

impl ResponseId {
    /// From a number that nobody else has.
    pub const fn new(number: u128) -> Self {
        Self(number)
    }
}

/// 32 hexadecimal digits, behind the prefix of its endpoint in an answer's `id`.
impl fmt::Display for ResponseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// An answer's `id`, with its prefix.
impl FromStr for ResponseId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let digits =
            ["chatcmpl-", "cmpl-", "resp_", "msg_"].into_iter().find_map(|prefix| s.strip_prefix(prefix));
        let digits = digits.filter(|d| d.len() == 32 && d.bytes().all(|b| b.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        number.map(Self).ok_or_else(|| IdError::Response { found: s.chars().take(80).collect() })
    }
}

/// What a user thinks of an answer, from 0 (bad) to 1 (good).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Score(f64);

impl Score {
    /// Halfway: a thumb up is above it, a thumb down below.
    pub const HALF: Self = Self(0.5);

    /// From 0 to 1.
    pub fn new(score: f64) -> Result<Self, IdError> {
        if (0.0..=1.0).contains(&score) {
            Ok(Self(score))
        } else {
            Err(IdError::Score { found: score.to_string() })
        }
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// What becomes of an image's weights when they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantize {
    /// They are read where they are mapped.
    #[default]
    AsStored,
    /// 8 bits: 8.5 a weight.
    Q8_0,
    /// 4 bits, and 6 where it matters most: about 4.8 a weight.
    Q4KM,
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsStored => "none",
            Self::Q8_0 => "q8_0",
            Self::Q4KM => "q4_k_m",
        })
    }
}

impl FromStr for Quantize {
    type Err = &'static str;

    /// What would do, where it is none.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::AsStored),
            "q8_0" => Ok(Self::Q8_0),
            "q4_k_m" => Ok(Self::Q4KM),
            _ => Err("write q8_0, q4_k_m, or none for weights as they are stored"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_a_url_or_a_reference_could_not_carry() {
        for bad in ["", "a b", "a@b", "a/b", ".hidden", &"x".repeat(65), "ü"] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?} was taken");
        }
        assert_eq!("support-assistant".parse::<ModelName>().unwrap().as_str(), "support-assistant");
    }

    #[test]
    fn a_digest_reads_back_as_it_was_written() {
        let text = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        assert!(text.to_uppercase().parse::<Digest>().is_err());
    }

    #[test]
    fn an_answer_is_found_by_the_id_that_it_came_with() {
        let id = ResponseId::new(0x0123);
        for prefix in ["chatcmpl-", "cmpl-", "resp_", "msg_"] {
            assert_eq!(format!("{prefix}{id}").parse(), Ok(id));
        }
        for bad in [
            "",
            "chatcmpl-",
            "0123",
            &format!("other-{id}"),
            &format!("cmpl-{id}0"),
            "cmpl-+0000000000000000000000000000123",
        ] {
            assert!(bad.parse::<ResponseId>().is_err(), "{bad:?} was taken");
        }
        assert!(Score::new(f64::NAN).is_err() && Score::new(1.1).is_err() && Score::new(0.0).is_ok());
    }

    #[test]
    fn a_weight_is_a_percentage_with_two_decimals() {
        assert_eq!(serde_json::to_string(&Weight::from_percent(2.5).unwrap()).unwrap(), "2.5");
        assert_eq!(serde_json::to_string(&Weight::FULL).unwrap(), "100");
        for bad in [-1.0, 100.01, 0.001, f64::NAN] {
            assert!(Weight::from_percent(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_quantisation_is_written_as_it_is_read() {
        for quantize in [Quantize::AsStored, Quantize::Q8_0, Quantize::Q4KM] {
            assert_eq!(quantize.to_string().parse(), Ok(quantize));
        }
        assert!("q4_k".parse::<Quantize>().is_err());
    }
}
