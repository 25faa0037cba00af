//! A linear layer as architectures are made of: its weight, and its bias where it has one.

use candle_core::{Device, Result, Tensor};

use super::error::ModelError;
use super::weights::Checkpoint;
use crate::tensor::{Weight, add, linear};

pub(super) struct Projection {
    weight: Weight,
    bias: Option<Tensor>,
}

/// Whether a linear layer adds a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    Added,
    Absent,
}

impl From<bool> for Bias {
    /// As `config.json` says it.
    fn from(there: bool) -> Self {
        if there { Self::Added } else { Self::Absent }
    }
}

impl Projection {
    /// Takes `name.weight` `[out, width]` and, if there is one, `name.bias` `[out]`.
    pub(super) fn take(
        from: &mut Checkpoint<'_>,
        name: &str,
        [out, width]: [usize; 2],
        bias: Bias,
    ) -> std::result::Result<Self, ModelError> {
        let weight = from.take(&format!("{name}.weight"), &[out, width])?;
        let bias = match bias {
            Bias::Added => Some(widened(&from.take(&format!("{name}.bias"), &[out])?)?),
            Bias::Absent => None,
        };
        Ok(Self { weight, bias })
    }

    /// `[rows, width]` gives `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = linear(x, &self.weight)?;
        match &self.bias {
            Some(bias) => add(&y, bias),
            None => Ok(y),
        }
    }
}

/// A bias as a tensor of one row.
fn widened(bias: &Weight) -> Result<Tensor> {
    let mut row = vec![0.0; bias.cols()];
    bias.widen_row(0, &mut row);
    Tensor::from_vec(row, (1, bias.cols()), &Device::Cpu)
}
