//! Sentence encoders: a text becomes a vector, and texts that mean the same become vectors of nearly one direction. And
//! cross-encoders: two texts become one number, how well they go together.
//!
//! In: a folder as sentence-transformers writes it; then texts. Out: an [`Encoder`], then vectors of length 1; or a
//! [`CrossEncoder`], then scores.
//! Imports what `model` does.
//!
//! Invariants: a text's vector depends on that text alone, and a pair's score on that pair; a folder that asks for what is not computed here (another
//! architecture, another pooling, a prompt before each text) is an error that names the file, never another vector.

mod bert;
mod config;
mod cross;
mod files;
mod layout;
mod load;

pub use cross::CrossEncoder;
pub use load::Encoder;
