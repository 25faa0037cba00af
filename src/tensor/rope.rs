//! The angles of rotary position embedding (Su et al., 2021).

use super::device::{Device, Place};
use super::error::{Result, elsewhere};
use super::gpu::{self, Buffer};
use super::rows::{Numbers, Rows};

/// How far each pair of a head turns a position, and by what the result is scaled.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Radians a position, one for each pair of a head that turns; at most `head_dim / 2`.
    pub frequencies: Vec<f32>,
    /// Multiplies sine and cosine; 1 but for scalings that sharpen attention.
    pub attention_factor: f32,
}

/// A [`RopeTable`] on a device.
#[derive(Debug)]
pub struct Rope {
    table: RopeTable,
    /// The frequencies on a GPU.
    frequencies: Option<Buffer>,
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
    /// The same on a GPU.
    Device(Buffer),
}

impl Rope {
    /// Brings a table to a device.
    pub fn new(table: RopeTable, device: &Device) -> Result<Self> {
        let frequencies = match &device.0 {
            Place::Cpu => None,
            Place::Gpu(gpu) => {
                let bytes: Vec<u8> = table.frequencies.iter().flat_map(|f| f.to_le_bytes()).collect();
                Some(gpu.place(&bytes)?)
            }
        };
        Ok(Self { table, frequencies })
    }

    /// The angles of the rows of a pass on the same device.
    pub fn angles(&self, rows: &Rows<'_>) -> Result<RopeAngles> {
        let half = self.table.frequencies.len();
        let turns = match (&rows.positions().0, &self.frequencies) {
            (Numbers::Host(positions), None) => Turns::Host(self.table.turns(positions)),
            (Numbers::Device(positions), Some(frequencies)) => {
                Turns::Device(gpu::angles(positions, frequencies, half, self.table.attention_factor)?)
            }
            _ => return Err(elsewhere("rope")),
        };
        Ok(RopeAngles { half, turns })
    }
}

impl RopeTable {
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
    /// Elements of a head that turn.
    pub(super) const fn turned(&self) -> usize {
        2 * self.half
    }

    pub(super) const fn turns(&self) -> &Turns {
        &self.turns
    }
}
