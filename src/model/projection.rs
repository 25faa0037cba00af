//! A linear layer as architectures are made of: its weight, its bias where it has one, and what adapters add to it.

use super::error::ModelError;
use super::weights::Checkpoint;
use crate::tensor::{
    Activation, AdapterSlot, Adapters, Affine, Device, ElementType, LowRank, LowRanks, Rows, Tensor,
    TensorError, Vector, Weight, add_low_rank, gate_mul, gated_linear, linear,
};

pub(super) struct Projection {
    weight: Weight,
    bias: Option<Vector>,
    adapters: LowRanks,
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
        Ok(Self { weight, bias, adapters: LowRanks::default() })
    }

    /// A layer that adds nothing.
    pub(super) fn without_bias(weight: Weight) -> Self {
        Self { weight, bias: None, adapters: LowRanks::default() }
    }

    /// The same layer on a device, without adapters.
    pub(super) fn on(&self, device: &Device) -> Result<Self, TensorError> {
        let bias = self.bias.as_ref().map(|bias| bias.on(device)).transpose()?;
        Ok(Self { weight: self.weight.on(device)?, bias, adapters: LowRanks::default() })
    }

    /// What an adapter adds from now on to rows that go through it.
    pub(super) fn seat(
        &mut self,
        slot: AdapterSlot,
        part: &LowRank,
        to: (&Device, ElementType),
    ) -> Result<(), TensorError> {
        self.adapters.seat(slot, part, &self.weight, to)
    }

    /// Takes an adapter's part out, if it has one here.
    pub(super) fn unseat(&mut self, slot: AdapterSlot, device: &Device) -> Result<(), TensorError> {
        self.adapters.unseat(slot, device)
    }

    /// `x` `[rows, in]` gives `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor, rows: &Rows<'_>) -> Result<Tensor, TensorError> {
        add_low_rank(linear(x, self.layer())?, x, &self.adapters, rows)
    }

    /// `activation(gate(x)) * up(x)`: the first half of a gated MLP.
    pub(super) fn gated(
        x: &Tensor,
        [gate, up]: [&Self; 2],
        activation: Activation,
        rows: &Rows<'_>,
    ) -> Result<Tensor, TensorError> {
        match rows.adapters() {
            Adapters::None => gated_linear(x, gate.layer(), up.layer(), activation),
            // what adapters add comes before the activation
            Adapters::Some => gate_mul(gate.forward(x, rows)?, &up.forward(x, rows)?, activation),
        }
    }

    /// As operators take it.
    pub(super) const fn layer(&self) -> Affine<'_> {
        Affine { weight: &self.weight, bias: self.bias.as_ref() }
    }
}
