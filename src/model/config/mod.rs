//! `config.json` of any family, checked into one description of a decoder whose sizes fit each other.
//!
//! `family` says how the families differ, as data: a row of a table each. `raw` is the file as it is written, `check`
//! brings the two together, `layers` and `rope` do so for what differs by layer. What a file says and is not supported is
//! an error that names the field, the value and what would do.

mod check;
mod description;
mod family;
mod json;
mod layers;
mod raw;
mod rope;
mod tokens;

#[cfg(test)]
mod tests;

pub(super) use description::{Biases, Config, EmbeddingScale, Experts, Layer, Mlp};
pub(super) use family::{Gain, HeadNorm, NormPlacement, Projections};
pub(super) use json::{read_json, read_optional};
pub(super) use tokens::{Marks, TokenIds};
