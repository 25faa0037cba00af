//! A linear layer as architectures are made of: its weight, and its bias where it has one.

use super::error::ModelError;
use super::weights::Checkpoint;
use crate::tensor::{Affine, Device, TensorError, Vector, Weight};

pub(super) struct Projection {
    weight: Weight,
    bias: Option<Vector>,
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
            Bias::Added => Some(from.take_vector(&format!("{name}.bias"), out)?),
            Bias::Absent => None,
        };
        Ok(Self { weight, bias })
    }

    /// A layer that adds nothing.
    pub(super) const fn without_bias(weight: Weight) -> Self {
        Self { weight, bias: None }
    }

    /// The same layer on a device.
    pub(super) fn on(&self, device: &Device) -> Result<Self, TensorError> {
        let bias = self.bias.as_ref().map(|bias| bias.on(device)).transpose()?;
        Ok(Self { weight: self.weight.on(device)?, bias })
    }

    /// As operators take it.
    pub(super) const fn layer(&self) -> Affine<'_> {
        Affine { weight: &self.weight, bias: self.bias.as_ref() }
    }
}
