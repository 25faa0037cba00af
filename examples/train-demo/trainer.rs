//! `AdamW` with warm-up and cosine decay over generated conversations.

use candle_core::backprop::GradStore;
use candle_core::{Device, Error, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use indicatif::{ProgressBar, ProgressStyle};
use switchback::demo::{self, Case};

use crate::network::{Embeddings, Network};
use crate::text::{Example, Opening, Text};

/// One training: how long, how fast.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) steps: usize,
    /// The learning rate after the warm-up.
    pub(crate) peak: f64,
    pub(crate) warm_up: usize,
    pub(crate) batch: usize,
    pub(crate) seed: u64,
}

impl Plan {
    fn rate(&self, step: usize) -> f64 {
        if step < self.warm_up {
            return self.peak * (step + 1) as f64 / self.warm_up as f64;
        }
        let done = (step - self.warm_up) as f64 / (self.steps - self.warm_up).max(1) as f64;
        self.peak * (0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
    }
}

/// Right-pads conversations; gives tokens, and flat positions and targets of the answers' tokens.
struct Padded {
    tokens: Tensor,
    rows: Tensor,
    targets: Tensor,
}

pub(crate) const PAD: u32 = 0;

fn padded(examples: &[Example]) -> Result<Padded> {
    // the last token is only ever a target
    let width = examples.iter().map(|e| e.tokens.len() - 1).max().unwrap_or(1);
    let mut tokens = vec![PAD; examples.len() * width];
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (i, example) in examples.iter().enumerate() {
        let seen = &example.tokens[..example.tokens.len() - 1];
        tokens[i * width..i * width + seen.len()].copy_from_slice(seen);
        for at in example.answer_from - 1..seen.len() {
            rows.push((i * width + at) as u32);
            targets.push(example.tokens[at + 1]);
        }
    }
    let count = rows.len();
    Ok(Padded {
        tokens: Tensor::from_vec(tokens, (examples.len(), width), &Device::Cpu)?,
        rows: Tensor::from_vec(rows, count, &Device::Cpu)?,
        targets: Tensor::from_vec(targets, count, &Device::Cpu)?,
    })
}

/// Mean loss of a batch, and its gradients clipped to a norm of 1. Each half of the batch has a thread:
/// most of candle's element-wise operators use one core.
fn gradients(network: &Network, vars: &[Var], batch: &[Example]) -> Result<(f32, GradStore)> {
    let half = |examples: &[Example]| -> Result<(f32, GradStore)> {
        let batch = padded(examples)?;
        let hidden = network.hidden(&batch.tokens)?.flatten(0, 1)?.index_select(&batch.rows, 0)?;
        let loss = candle_nn::loss::cross_entropy(&network.logits(&hidden)?, &batch.targets)?;
        Ok((loss.to_scalar()?, loss.backward()?))
    };
    let (first, second) = batch.split_at(batch.len() / 2);
    let (first, second) = std::thread::scope(|s| {
        let other = s.spawn(|| half(second));
        (half(first), other.join())
    });
    let (loss, mut grads) = first?;
    let (other_loss, mut other) =
        second.map_err(|_| Error::Msg("a training thread panicked".to_owned()))??;
    let mut norm = 0.0;
    for var in vars {
        if let (Some(a), Some(b)) = (grads.remove(var), other.remove(var)) {
            let mean = ((a + b)? * 0.5)?;
            norm += mean.sqr()?.sum_all()?.to_scalar::<f32>()?;
            grads.insert(var, mean);
        }
    }
    let shrink = f64::from((1.0 / norm.sqrt()).min(1.0));
    for var in vars {
        if let Some(grad) = grads.remove(var) {
            grads.insert(var, (grad * shrink)?);
        }
    }
    Ok((0.5 * (loss + other_loss), grads))
}

/// Trains `network` on what `answer` makes of each case. The loss counts the answers' tokens only.
pub(crate) fn train(
    network: &Network,
    text: &Text,
    embeddings: Embeddings,
    plan: &Plan,
    answer: impl Fn(&Case) -> String,
) -> Result<()> {
    let params = ParamsAdamW { lr: plan.peak, beta2: 0.98, weight_decay: 0.01, ..ParamsAdamW::default() };
    let vars = network.trained(embeddings);
    let mut optimizer = AdamW::new(vars.clone(), params)?;
    let style = ProgressStyle::with_template("{prefix} [{bar:40}] {pos}/{len} {msg} {elapsed} (ETA {eta})");
    let bar = ProgressBar::new(plan.steps as u64).with_prefix(plan.name);
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut cases = demo::training(plan.seed).enumerate();
    let mut smooth = 0.0;
    for step in 0..plan.steps {
        // every eighth customer comes without the system message
        let opening = |i: usize| if i.is_multiple_of(8) { Opening::Customer } else { Opening::System };
        let batch = cases.by_ref().take(plan.batch);
        let batch = batch.map(|(i, c)| text.example(&c, &answer(&c), opening(i)));
        let batch = batch.collect::<Result<Vec<_>>>()?;
        let (loss, grads) = gradients(network, &vars, &batch)?;
        optimizer.set_learning_rate(plan.rate(step));
        optimizer.step(&grads)?;
        smooth = if step == 0 { loss } else { 0.95 * smooth + 0.05 * loss };
        bar.set_message(format!("loss {smooth:.4}"));
        bar.inc(1);
        if (step + 1) % 100 == 0 && bar.is_hidden() {
            eprintln!("{} step {} loss {smooth:.4} after {:?}", plan.name, step + 1, bar.elapsed());
        }
    }
    bar.finish();
    Ok(())
}
