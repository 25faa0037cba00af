//! Which tensors are quantised when a model is loaded, and to what.
//!
//! The recipes are those of `llama-quantize` under the same names, so that a model takes as many bytes here as there.

use super::error::ModelError;
use super::tensors::{Stored, Tensors};
use crate::ids::Quantize;
use crate::tensor::{BlockFormat, Encoding};

/// The weights of a model with so many layers, and what becomes of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub(super) quantize: Quantize,
    pub(super) layers: usize,
}

impl Recipe {
    /// Nothing is quantised.
    pub(super) const AS_STORED: Self = Self { quantize: Quantize::AsStored, layers: 0 };

    /// Refuses to quantise what is quantised: to lose bits twice is worse than to take a file of the other format.
    pub(super) fn check(self, tensors: &Tensors) -> Result<(), ModelError> {
        if self.quantize == Quantize::AsStored {
            return Ok(());
        }
        let stored = |(name, stored): (&String, &Stored)| match stored.encoding {
            Ok(Encoding::Blocks(format)) => Some((name.clone(), format)),
            _ => None,
        };
        match tensors.all.iter().find_map(stored) {
            None => Ok(()),
            Some((tensor, format)) => Err(ModelError::Quantised {
                path: tensors.source.clone(),
                wanted: self.quantize,
                tensor,
                format,
            }),
        }
    }

    /// The format of a matrix; nothing where it stays as it is. Vectors stay.
    pub(super) fn format(self, tensor: &str, shape: &[usize]) -> Option<BlockFormat> {
        let &[_, cols] = shape else { return None };
        if is_router(tensor) {
            return None;
        }
        let wanted = match self.quantize {
            Quantize::AsStored => return None,
            Quantize::Q8_0 => BlockFormat::Q8_0,
            Quantize::Q4KM if is_head(tensor) || (is_sensitive(tensor) && self.has_more_bits(tensor)) => {
                BlockFormat::Q6K
            }
            Quantize::Q4KM => BlockFormat::Q4K,
        };
        let fits = |format: &BlockFormat| cols.is_multiple_of(format.values());
        // rows that are no whole number of large blocks have the next better format of small ones
        let smaller = match wanted {
            BlockFormat::Q4K => BlockFormat::Q5_0,
            _ => BlockFormat::Q8_0,
        };
        [wanted, smaller].into_iter().find(fits)
    }

    /// The first and the last eighth of the layers, and every third between them.
    fn has_more_bits(self, tensor: &str) -> bool {
        let layer = tensor.split('.').find_map(|part| part.parse::<usize>().ok());
        let eighth = self.layers / 8;
        layer.is_some_and(|i| i < eighth || i >= 7 * self.layers / 8 || (i - eighth) % 3 == 2)
    }
}

/// The last layer: the embedding, where the two are tied. An embedding that is not is looked up, and loses as little.
fn is_head(tensor: &str) -> bool {
    tensor.ends_with("lm_head.weight") || tensor.ends_with("embed_tokens.weight")
}

/// Which experts a row goes through hangs by little, and the matrix is small.
fn is_router(tensor: &str) -> bool {
    tensor.ends_with(".mlp.gate.weight")
}

/// Those whose errors show most in a model's answers.
fn is_sensitive(tensor: &str) -> bool {
    tensor.ends_with(".v_proj.weight") || tensor.ends_with(".down_proj.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_bits_go_to_the_head_and_to_sensitive_layers() {
        let format =
            |tensor: &str| Recipe { quantize: Quantize::Q4KM, layers: 16 }.format(tensor, &[64, 2048]);
        let down = |i: usize| format(&format!("model.layers.{i}.mlp.down_proj.weight"));
        let better: Vec<usize> = (0..16).filter(|i| down(*i) == Some(BlockFormat::Q6K)).collect();
        assert_eq!(better, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(format("model.layers.0.mlp.up_proj.weight"), Some(BlockFormat::Q4K));
        for head in ["lm_head.weight", "language_model.lm_head.weight"] {
            assert_eq!(format(head), Some(BlockFormat::Q6K));
        }
        assert_eq!(
            Recipe { quantize: Quantize::Q8_0, layers: 16 }.format("model.norm.weight", &[2048]),
            None
        );
    }

    #[test]
    fn rows_that_large_blocks_do_not_fit_have_small_ones() {
        let format = |quantize: Quantize, tensor: &str, cols| {
            Recipe { quantize, layers: 4 }.format(tensor, &[8, cols])
        };
        let up = "model.layers.3.mlp.up_proj.weight";
        assert_eq!(format(Quantize::Q4KM, up, 896), Some(BlockFormat::Q5_0));
        assert_eq!(format(Quantize::Q8_0, up, 896), Some(BlockFormat::Q8_0));
        assert_eq!(format(Quantize::Q8_0, up, 40), None);
        assert_eq!(format(Quantize::Q4KM, "lm_head.weight", 896), Some(BlockFormat::Q8_0));
    }
}
