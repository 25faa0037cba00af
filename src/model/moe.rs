//! What follows attention in a block: one gated MLP, or a mixture of them.

use super::adapter::Target;
use super::config::{Config, Experts, Mlp as Kind, Projections};
use super::error::ModelError;
use super::projection::Projection;
use super::weights::Checkpoint;
use crate::tensor::{self, Activation, Device, Routing, Rows, Tensor, TensorError, Weight, mixture};

/// Takes the normalised residual stream `[rows, hidden]`, and gives what is to be added to it.
#[expect(clippy::large_enum_variant, reason = "there is one a layer, and nearly all are the larger")]
pub(super) enum Mlp {
    Dense { gate: Projection, up: Projection, down: Projection },
    Sparse { router: Weight, experts: tensor::Experts, routing: Routing },
}

impl Mlp {
    pub(super) fn forward(
        &self,
        h: &Tensor,
        activation: Activation,
        rows: &Rows<'_>,
    ) -> Result<Tensor, TensorError> {
        match self {
            Self::Dense { gate, up, down } => {
                let h = Projection::gated(h, [gate, up], activation, rows)?; // [rows, intermediate]
                down.forward(&h, rows) // [rows, hidden]
            }
            Self::Sparse { router, experts, routing } => mixture(h, router, experts, *routing, activation),
        }
    }

    /// The projections that adapters add to.
    pub(super) fn adaptable(&mut self) -> Vec<(Target, &mut Projection)> {
        match self {
            Self::Dense { gate, up, down } => {
                vec![(Target::Gate, gate), (Target::Up, up), (Target::Down, down)]
            }
            Self::Sparse { .. } => Vec::new(),
        }
    }

    pub(super) fn on(&self, device: &Device) -> Result<Self, TensorError> {
        Ok(match self {
            Self::Dense { gate, up, down } => {
                Self::Dense { gate: gate.on(device)?, up: up.on(device)?, down: down.on(device)? }
            }
            Self::Sparse { router, experts, routing } => {
                Self::Sparse { router: router.on(device)?, experts: experts.on(device)?, routing: *routing }
            }
        })
    }

    /// `name` is that of the layer's MLP.
    pub(super) fn load(
        config: &Config,
        kind: Kind,
        name: &str,
        from: &mut Checkpoint<'_>,
    ) -> Result<Self, ModelError> {
        match kind {
            Kind::Sparse(experts) => Self::sparse(config.hidden, experts, name, from),
            Kind::Dense => Self::dense(config, name, from),
        }
    }

    fn dense(config: &Config, name: &str, from: &mut Checkpoint<'_>) -> Result<Self, ModelError> {
        let &Config { hidden, intermediate, biases, .. } = config;
        let [gate, up] = match config.projections {
            Projections::Separate => {
                let shape = [intermediate, hidden];
                let mut projection =
                    |part: &str| Projection::take(from, &format!("{name}.{part}"), shape, biases.mlp);
                [projection("gate_proj")?, projection("up_proj")?]
            }
            Projections::Fused => {
                let weight = format!("{name}.gate_up_proj.weight");
                from.take_stacked(&weight, [intermediate; 2], hidden)?.map(Projection::without_bias)
            }
        };
        let down = Projection::take(from, &format!("{name}.down_proj"), [hidden, intermediate], biases.mlp)?;
        Ok(Self::Dense { gate, up, down })
    }

    fn sparse(
        hidden: usize,
        experts: Experts,
        name: &str,
        from: &mut Checkpoint<'_>,
    ) -> Result<Self, ModelError> {
        let Experts { count, intermediate, routing } = experts;
        let router = from.take(&format!("{name}.gate.weight"), &[count, hidden])?;
        let mut expert = |e: usize| {
            let mut part = |part: &str, shape: [usize; 2]| {
                from.take(&format!("{name}.experts.{e}.{part}.weight"), &shape)
            };
            let (inner, outer) = ([intermediate, hidden], [hidden, intermediate]);
            Ok([part("gate_proj", inner)?, part("up_proj", inner)?, part("down_proj", outer)?])
        };
        let weights = (0..count).map(&mut expert).collect::<Result<_, ModelError>>()?;
        Ok(Self::Sparse { router, experts: tensor::Experts::new(weights)?, routing })
    }
}
