//! The angles of rotary position embedding (Su et al., 2021).

use super::rows::{Indices, Rows};

/// How far each pair of a head turns a position, and by what the result is scaled.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Radians a position, one for each of the `head_dim / 2` pairs.
    pub frequencies: Vec<f32>,
    /// Multiplies sine and cosine; 1 but for scalings that sharpen attention.
    pub attention_factor: f32,
}

/// Cosines and sines of a pass's rows: computed once, used in every layer.
#[derive(Debug)]
pub struct RopeAngles {
    half: usize,
    turns: Turns,
}

#[derive(Debug)]
pub(super) enum Turns {
    /// `[rows, half]`, cosine and sine.
    Host(Vec<(f32, f32)>),
}

impl RopeTable {
    /// The angles of the rows of a pass.
    pub fn angles(&self, rows: &Rows<'_>) -> RopeAngles {
        let turns = match &rows.positions {
            Indices::Host(positions) => Turns::Host(self.turns(positions)),
        };
        RopeAngles { half: self.frequencies.len(), turns }
    }

    /// Cosine and sine of each pair at each position.
    pub(super) fn turns(&self, positions: &[u32]) -> Vec<(f32, f32)> {
        let turn = |position: u32, frequency: &f32| {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            (cos * self.attention_factor, sin * self.attention_factor)
        };
        positions.iter().flat_map(|p| self.frequencies.iter().map(move |f| turn(*p, f))).collect()
    }
}

impl RopeAngles {
    pub(super) const fn head_dim(&self) -> usize {
        2 * self.half
    }

    pub(super) const fn turns(&self) -> &Turns {
        &self.turns
    }
}
