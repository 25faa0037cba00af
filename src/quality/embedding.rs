//! What a text means, as a direction: vectors, and what makes them.

use std::fmt;
use std::sync::Arc;

/// A vector of length 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding(Vec<f32>);

impl Embedding {
    /// How far from 1 a length may be that is 1 but for rounding.
    const ROUNDING: f64 = 1e-3;

    /// `vector`, if its length is 1.
    pub fn unit(vector: Vec<f32>) -> Option<Self> {
        let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        ((length - 1.0).abs() < Self::ROUNDING).then_some(Self(vector))
    }

    /// The cosine of the angle between two: 1 for the same direction, 0 for nothing in common.
    pub fn cosine(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }
}

/// Embeds texts; an error says why a text could not be embedded. Cloning it clones a pointer.
#[derive(Clone)]
pub struct Embedder(Arc<Embed>);

type Embed = dyn Fn(&str) -> Result<Embedding, String> + Send + Sync;

impl Embedder {
    /// An embedder that does as `embed`, which must give the same text the same vector.
    pub fn new(embed: impl Fn(&str) -> Result<Embedding, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(embed))
    }

    pub(super) fn embed(&self, text: &str) -> Result<Embedding, String> {
        (self.0)(text)
    }
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Embedder(..)")
    }
}
