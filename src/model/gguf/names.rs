//! Tensors by the names that `transformers` gives them, which are those that the decoder asks for.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::{alternates, architecture};
use super::header::{Header, TensorInfo};
use crate::model::config::{Config, NormPlacement, Projections};
use crate::model::tensors::{RowOrder, Stored};
use crate::tensor::{Encoding, MappedFile};

/// Where the tensors of a file lie. Those of experts, which it holds together, lie there one by one. A tensor that has no name in
/// `transformers` keeps its own, so that an error about it says what the file says.
pub(super) fn placed(
    header: &Header<'_>,
    config: &Config,
    path: &Path,
    file: &MappedFile,
) -> Result<BTreeMap<String, Stored>, String> {
    let alternates = alternates(architecture(&header.metadata)?);
    let mut all = BTreeMap::new();
    let mut put = |name: String, stored: Stored| match all.insert(name.clone(), stored) {
        Some(_) => Err(format!("tensor {name} is there under two names")),
        None => Ok(()),
    };
    for tensor in header.tensors.iter().filter(|tensor| !is_read_elsewhere(tensor.name)) {
        let stored = |shape: &[usize], range, rows| Stored {
            path: path.into(),
            file: file.clone(),
            encoding: Ok(tensor.encoding),
            shape: shape.to_vec(),
            range,
            rows,
        };
        let Some(OfBlock { layer, part, end }) = in_block(tensor.name) else {
            let name = outside_blocks(tensor.name).unwrap_or(tensor.name);
            put(name.to_owned(), stored(&tensor.shape, tensor.range.clone(), RowOrder::AsComputed))?;
            continue;
        };
        if let Some(projection) = of_experts(part) {
            let (count, shape, bytes) = experts(tensor, config)?;
            for expert in 0..count {
                let start = tensor.range.start + expert * bytes;
                let name = format!("model.layers.{layer}.mlp.experts.{expert}.{projection}{end}");
                put(name, stored(shape, start..start + bytes, RowOrder::AsComputed))?;
            }
            continue;
        }
        let name = layer_part(part, config).map(|part| format!("model.layers.{layer}.{part}{end}"));
        let rows = if alternates { row_order(tensor, part, config) } else { RowOrder::AsComputed };
        let name = name.unwrap_or_else(|| tensor.name.to_owned());
        put(name, stored(&tensor.shape, tensor.range.clone(), rows))?;
    }
    Ok(all)
}

/// A name such as `blk.3.attn_q.weight`.
struct OfBlock<'a> {
    layer: usize,
    part: &'a str,
    /// With its dot.
    end: &'a str,
}

fn in_block(name: &str) -> Option<OfBlock<'_>> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, end) = rest.split_at(rest.find('.')?);
    let number = layer.parse::<usize>().ok().filter(|number| number.to_string() == layer)?;
    matches!(end, ".weight" | ".bias").then_some(OfBlock { layer: number, part, end })
}

/// Frequencies, which the configuration says.
fn is_read_elsewhere(name: &str) -> bool {
    matches!(name, "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight")
        || name.ends_with(".attn_rot_embd")
}

fn outside_blocks(name: &str) -> Option<&'static str> {
    Some(match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => return None,
    })
}

fn layer_part(part: &str, config: &Config) -> Option<&'static str> {
    Some(match (part, config.norms, config.projections) {
        ("attn_norm", ..) => "input_layernorm",
        ("ffn_norm", NormPlacement::Pre, _) | ("post_attention_norm", NormPlacement::PreAndPost, _) => {
            "post_attention_layernorm"
        }
        ("ffn_norm", NormPlacement::PreAndPost, _) => "pre_feedforward_layernorm",
        ("post_ffw_norm", NormPlacement::PreAndPost, _) => "post_feedforward_layernorm",
        ("attn_q", ..) => "self_attn.q_proj",
        ("attn_k", ..) => "self_attn.k_proj",
        ("attn_v", ..) => "self_attn.v_proj",
        ("attn_qkv", ..) => "self_attn.qkv_proj",
        ("attn_output", ..) => "self_attn.o_proj",
        ("attn_q_norm", ..) => "self_attn.q_norm",
        ("attn_k_norm", ..) => "self_attn.k_norm",
        ("ffn_gate", ..) => "mlp.gate_proj",
        ("ffn_up", _, Projections::Separate) => "mlp.up_proj",
        ("ffn_up", _, Projections::Fused) => "mlp.gate_up_proj",
        ("ffn_down", ..) => "mlp.down_proj",
        ("ffn_gate_inp", ..) => "mlp.gate",
        _ => return None,
    })
}

fn of_experts(part: &str) -> Option<&'static str> {
    Some(match part {
        "ffn_gate_exps" => "gate_proj",
        "ffn_up_exps" => "up_proj",
        "ffn_down_exps" => "down_proj",
        _ => return None,
    })
}

/// How many experts a tensor holds, the shape of each, and its bytes.
fn experts<'t>(tensor: &'t TensorInfo<'_>, config: &Config) -> Result<(usize, &'t [usize], usize), String> {
    let wanted = config.most_experts();
    match &tensor.shape[..] {
        [count, shape @ ..] if shape.len() == 2 && *count == wanted => {
            Ok((*count, shape, tensor.range.len() / count))
        }
        found => Err(format!("tensor {}: shape {found:?} is not that of {wanted} experts", tensor.name)),
    }
}

/// The pairs of queries and of keys that turn together are neighbours in files of Llama.
fn row_order(tensor: &TensorInfo<'_>, part: &str, config: &Config) -> RowOrder {
    // a quantised bias has no rows; who takes it refuses it
    let has_rows = tensor.shape.len() == 2 || matches!(tensor.encoding, Encoding::Plain(_));
    match part {
        "attn_q" if has_rows => RowOrder::Alternating { heads: config.heads },
        "attn_k" if has_rows => RowOrder::Alternating { heads: config.kv_heads },
        _ => RowOrder::AsComputed,
    }
}
