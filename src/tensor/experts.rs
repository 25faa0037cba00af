//! Mixtures of experts: each row goes through a few of many small MLPs (Shazeer et al., 2017).
//!
//! On the host rows are grouped by expert, so that an expert's weights are read once for all its rows. What an expert
//! gives a row is added in the order of the experts, whoever else is in the group: a row is computed alone.

use super::array::{Data, Tensor};
use super::cpu;
use super::device::{Device, Place};
use super::error::{Result, TensorError, elsewhere};
use super::gpu;
use super::ops::{Activation, Affine, expect, gated_linear, linear, logits, placed};
use super::weight::Weight;

/// Which experts a row goes through, and how much each counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// Experts of a row: those with its highest scores; of equal ones, the first.
    pub per_token: usize,
    /// How much each counts.
    pub shares: Shares,
}

/// How much the experts of a row count: by the softmax of its scores,
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shares {
    /// over the experts that it goes through,
    Normalised,
    /// or over all experts, so that those of a row are less than 1 together.
    OfAll,
}

/// Gated MLPs of one shape, on a device.
pub struct Experts {
    /// Each gate `[width, hidden]`, upward layer `[width, hidden]` and downward layer `[hidden, width]`.
    weights: Vec<[Weight; 3]>,
    /// On a GPU where they lie: all gates, then all upward and all downward layers.
    table: Option<gpu::Buffer>,
}

/// An expert and how much it counts.
pub(super) type Pick = (u32, f32);

impl Experts {
    /// Experts in the host's memory. An error if there are none, or if they are of different shapes.
    pub fn new(weights: Vec<[Weight; 3]>) -> Result<Self> {
        let shape = |w: &Weight| (w.rows(), w.cols(), w.encoding());
        let Some([gate, _, down]) = weights.first() else {
            return Err(TensorError::shape("experts", "none"));
        };
        let (gate, down) = (shape(gate), shape(down));
        let fit = |[g, u, d]: &[Weight; 3]| [shape(g), shape(u)] == [gate; 2] && shape(d) == down;
        if (gate.0, gate.1) != (down.1, down.0) || !weights.iter().all(fit) {
            return Err(TensorError::shape("experts", "experts of different shapes"));
        }
        Ok(Self { weights, table: None })
    }

    /// The same experts on a device.
    pub fn on(&self, device: &Device) -> Result<Self> {
        let there = |[g, u, d]: &[Weight; 3]| Ok([g.on(device)?, u.on(device)?, d.on(device)?]);
        let weights = self.weights.iter().map(there).collect::<Result<Vec<_>>>()?;
        let table = match &device.0 {
            Place::Cpu => None,
            Place::Gpu(gpu) => {
                let layers = (0..3).flat_map(|part| weights.iter().map(move |expert| &expert[part]));
                let layers = layers.map(|weight| placed("experts", weight)).collect::<Result<Vec<_>>>()?;
                Some(gpu::table(gpu, &layers)?)
            }
        };
        Ok(Self { weights, table })
    }
}

/// What a row's experts make of it, each by its share: `[rows, hidden]` gives the same. `router` `[experts, hidden]` gives
/// the scores.
pub fn mixture(
    x: &Tensor,
    router: &Weight,
    experts: &Experts,
    routing: Routing,
    activation: Activation,
) -> Result<Tensor> {
    expect("mixture", "a router", router.rows(), experts.weights.len())?;
    if routing.per_token == 0 || routing.per_token > router.rows() {
        let what = format!("{} of {} experts a row", routing.per_token, router.rows());
        return Err(TensorError::shape("mixture", what));
    }
    let scores = logits(x, router)?;
    let data = match (x.data(), scores.data(), &experts.table) {
        (Data::Host(_), Data::Host(scores), None) => {
            let picks = cpu::route(scores, router.rows(), routing);
            Data::Host(grouped(x, &picks, experts, activation)?)
        }
        (Data::Device(array), Data::Device(scores), Some(table)) => {
            let [gate, _, down] = &experts.weights[0];
            let shape = gpu::MixtureShape {
                rows: x.rows(),
                hidden: gate.cols(),
                width: gate.rows(),
                experts: router.rows(),
                encodings: [gate.encoding(), down.encoding()],
            };
            Data::Device(gpu::mixture(array, scores, table, shape, (routing, activation))?)
        }
        _ => return Err(elsewhere("mixture")),
    };
    Ok(Tensor::new(x.rows(), x.width(), data))
}

/// An expert at a time, over the rows that go through it; `picks` `[rows, per_token]`.
fn grouped(x: &Tensor, picks: &[Pick], experts: &Experts, activation: Activation) -> Result<Vec<f32>> {
    let (rows, width) = (x.rows(), x.width());
    let Data::Host(values) = x.data() else { return Err(elsewhere("mixture")) };
    let mut out = vec![0.0; rows * width];
    for (expert, [gate, up, down]) in experts.weights.iter().enumerate() {
        let picked = picks.iter().enumerate().filter(|(_, (picked, _))| *picked as usize == expert);
        let members: Vec<(usize, f32)> =
            picked.map(|(i, (_, share))| (i / (picks.len() / rows), *share)).collect();
        if members.is_empty() {
            continue;
        }
        let own: Vec<&[f32]> = members.iter().map(|(row, _)| &values[row * width..][..width]).collect();
        let own = Tensor::from_vec(own.concat(), members.len(), width)?;
        let layer = |weight| Affine { weight, bias: None };
        let h = gated_linear(&own, layer(gate), layer(up), activation)?;
        let y = linear(&h, layer(down))?.into_vec()?;
        for ((row, share), y) in members.iter().zip(y.chunks_exact(width)) {
            out[row * width..][..width].iter_mut().zip(y).for_each(|(sum, y)| *sum += share * y);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ElementType;
    use crate::tensor::reference::{self, noise, weight};

    const HIDDEN: usize = 24;
    const WIDTH: usize = 10;

    fn experts(n: usize) -> Vec<[Weight; 3]> {
        let layer = |rows: usize, cols: usize, seed: usize| {
            weight(&noise(rows * cols, seed as u64), ElementType::Bf16, &[rows, cols])
        };
        (0..n)
            .map(|e| {
                [
                    layer(WIDTH, HIDDEN, 3 * e),
                    layer(WIDTH, HIDDEN, 3 * e + 1),
                    layer(HIDDEN, WIDTH, 3 * e + 2),
                ]
            })
            .collect()
    }

    #[test]
    fn a_mixture_is_what_the_formula_says_and_a_row_is_computed_alone() {
        let (weights, router) = (experts(7), weight(&noise(7 * HIDDEN, 99), ElementType::F32, &[7, HIDDEN]));
        let all = Experts::new(weights.clone()).unwrap();
        let values = noise(30 * HIDDEN, 100);
        for (per_token, shares) in [(2, Shares::Normalised), (3, Shares::OfAll), (7, Shares::OfAll)] {
            let routing = Routing { per_token, shares };
            let run = |x: &[f32]| {
                let x = Tensor::from_vec(x.to_vec(), x.len() / HIDDEN, HIDDEN).unwrap();
                mixture(&x, &router, &all, routing, Activation::Silu).unwrap().into_vec().unwrap()
            };
            let found = run(&values);
            let exact = reference::mixture(&values, &router, &weights, routing, Activation::Silu);
            for (a, b) in found.iter().zip(&exact) {
                assert!((a - b).abs() < 1e-4, "{routing:?}: {a} against {b}");
            }
            for (x, row) in values.chunks_exact(HIDDEN).zip(found.chunks_exact(HIDDEN)) {
                assert_eq!(run(x), row, "{routing:?}");
            }
        }
    }

    #[test]
    fn experts_that_do_not_go_together_are_refused() {
        assert!(Experts::new(Vec::new()).is_err());
        let mut odd = experts(3);
        odd[2].swap(1, 2);
        assert!(Experts::new(odd).is_err());
        let two = Experts::new(experts(2)).unwrap();
        let router = weight(&noise(2 * HIDDEN, 1), ElementType::F32, &[2, HIDDEN]);
        let x = Tensor::from_vec(noise(HIDDEN, 2), 1, HIDDEN).unwrap();
        for (per_token, fits) in [(0, false), (2, true), (3, false)] {
            let routing = Routing { per_token, shares: Shares::OfAll };
            assert_eq!(mixture(&x, &router, &two, routing, Activation::Silu).is_ok(), fits);
        }
    }
}
