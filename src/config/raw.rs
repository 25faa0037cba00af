//! The file as written: a tree whose every key and value knows its line.
//!
//! Derived structs with `deny_unknown_fields` would stop at the first mistake. The tree keeps unknown
//! and repeated keys, so that `reader` refuses all of them in one go.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, Spanned};

use super::error::ConfigError;

/// A value and the line it stands on.
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
}

/// Lines of an overlay are so much greater than they are, to be told from the configuration's own.
pub(super) const OVERLAY: u64 = 1 << 40;

/// What stands where nothing is written.
pub(super) const NOTHING: Node = Node { line: 0, value: Value::Null };

/// One YAML value.
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A mapping's key and its line.
pub(super) struct Key {
    pub(super) line: u64,
    pub(super) name: String,
}

impl Value {
    /// The value as an error message shows it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(b) => format!("the boolean `{b}`"),
            Self::Integer(i) => format!("the number {i}"),
            Self::Float(x) => format!("the number {x}"),
            Self::Text(t) => format!("{t:?}"),
            Self::List(items) => format!("a list with {} items", items.len()),
            Self::Map(entries) => format!("a mapping with {} keys", entries.len()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(d)?;
        Ok(Self { line: spanned.referenced.line(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E>(self, i: i64) -> Result<Value, E> {
        Ok(Value::Integer(i.into()))
    }
    fn visit_u64<E>(self, i: u64) -> Result<Value, E> {
        Ok(Value::Integer(i.into()))
    }
    fn visit_i128<E>(self, i: i128) -> Result<Value, E> {
        Ok(Value::Integer(i))
    }
    fn visit_u128<E>(self, i: u128) -> Result<Value, E> {
        Ok(i128::try_from(i).map_or(Value::Float(i as f64), Value::Integer))
    }
    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(Value::Float(x))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key = Key { line: key.referenced.line(), name: key.value };
            entries.push((key, map.next_value()?));
        }
        Ok(Value::Map(entries))
    }
}

/// Reads the text into a tree. Only broken YAML is refused here.
pub(super) fn tree(text: &str) -> Result<Node, ConfigError> {
    let options = serde_saphyr::options! {
        // A config is small; the limits end hostile nesting and alias bombs early.
        budget: serde_saphyr::budget! { max_depth: 32, max_nodes: 100_000, max_aliases: 1_000 },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Merge,
        // `y` and `on` are names here, not truth values.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let e = e.without_snippet();
        let message = e.to_string();
        ConfigError {
            line: e.location().map_or(0, |l| l.line()),
            path: String::new(),
            found: format!("the file is not readable YAML: {}", message.lines().next().unwrap_or_default()),
            fix: "check the indentation, the colons and the quotes near this line".to_owned(),
        }
    })
}
