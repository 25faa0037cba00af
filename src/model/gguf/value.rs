//! What the keys of a file hold.

use std::collections::BTreeMap;
use std::fmt;

/// A number's type, or that of a truth value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Kind {
    /// By its number in the format, where text is 8 and a list 9.
    pub(super) const fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    pub(super) const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// One of it, little-endian; nothing for a truth value that is neither 0 nor 1, or for another number of bytes.
    pub(super) fn read<'a>(self, bytes: &[u8]) -> Option<Value<'a>> {
        let whole = |value: i128| Some(Value::Whole(value));
        match self {
            Self::U8 => whole(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I8 => whole(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U16 => whole(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I16 => whole(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U32 => whole(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I32 => whole(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U64 => whole(u64::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I64 => whole(i64::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::F32 => Some(Value::Float(f32::from_le_bytes(bytes.try_into().ok()?).into())),
            Self::F64 => Some(Value::Float(f64::from_le_bytes(bytes.try_into().ok()?))),
            Self::Bool => match bytes {
                [0] => Some(Value::Flag(false)),
                [1] => Some(Value::Flag(true)),
                _ => None,
            },
        }
    }
}

/// What a key holds. Texts and numbers of lists lie in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Whole(i128),
    Float(f64),
    Flag(bool),
    Text(&'a str),
    Texts(Vec<&'a str>),
    Numbers(Kind, &'a [u8]),
}

impl fmt::Display for Value<'_> {
    /// In a few words, for errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Flag(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Texts(texts) => write!(f, "a list of {} texts", texts.len()),
            Self::Numbers(kind, bytes) => write!(f, "a list of {} numbers", bytes.len() / kind.size()),
        }
    }
}

/// The keys of a file, each once.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a>(pub(super) BTreeMap<&'a str, Value<'a>>);

impl<'a> Metadata<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.get(key)
    }

    /// What a key holds, as `read` takes it; an error names the key, and what is `wanted`.
    fn take<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| format!("{key}: found {value}, where {wanted} is wanted"))
    }

    /// A size.
    pub(super) fn size(&self, key: &str) -> Result<Option<u32>, String> {
        self.take(key, "one whole number below 2^32", |value| match value {
            Value::Whole(value) => u32::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.take(key, "a finite number", |value| match value {
            Value::Whole(value) => Some(*value as f64),
            Value::Float(value) if value.is_finite() => Some(*value),
            _ => None,
        })
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.take(key, "true or false", |value| match value {
            Value::Flag(value) => Some(*value),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.take(key, "a text", |value| match value {
            Value::Text(text) => Some(*text),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&[&'a str]>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value {
            Value::Texts(texts) => Ok(Some(texts)),
            _ => Err(format!("{key}: found {value}, where a list of texts is wanted")),
        }
    }

    /// A list of whole numbers, or of truth values as 0 and 1.
    pub(super) fn wholes(&self, key: &str) -> Result<Option<Vec<i128>>, String> {
        self.numbers(key, "a list of whole numbers", |value| match value {
            Value::Whole(value) => Some(value),
            Value::Flag(flag) => Some(flag.into()),
            _ => None,
        })
    }

    /// A list of numbers.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, String> {
        self.numbers(key, "a list of numbers", |value| match value {
            Value::Float(value) => Some(value),
            _ => None,
        })
    }

    fn numbers<T>(
        &self,
        key: &str,
        wanted: &str,
        each: impl Fn(Value<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, String> {
        self.take(key, wanted, |value| match value {
            Value::Numbers(kind, bytes) => {
                bytes.chunks_exact(kind.size()).map(|bytes| kind.read(bytes).and_then(&each)).collect()
            }
            // a list of nothing may be of any type
            Value::Texts(texts) if texts.is_empty() => Some(Vec::new()),
            _ => None,
        })
    }
}
