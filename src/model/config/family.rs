//! The families of decoders: in which way each differs from Llama.

use crate::tensor::Activation;

/// What the name of an architecture says of a model, and what `transformers` takes for keys that its file leaves out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    /// As `architectures` in `config.json` names it.
    pub(super) architecture: &'static str,
    pub(super) text: Text,
    pub(super) absent: Absent,
    pub(super) norms: NormPlacement,
    pub(super) gain: Gain,
    pub(super) head_norm: HeadNorm,
    pub(super) projections: Projections,
    pub(super) qkv_bias: BiasRule,
    pub(super) o_bias: BiasRule,
    pub(super) mlp_bias: BiasRule,
    pub(super) activation: ActivationKey,
    pub(super) scale: QueryScale,
    pub(super) softcaps: Option<Softcaps>,
    pub(super) embedding: super::EmbeddingScale,
    pub(super) windows: Windows,
    pub(super) window_switch: WindowSwitch,
    pub(super) layer_types: LayerTypes,
    pub(super) ropes: Ropes,
    pub(super) mlps: Mlps,
}

/// What is so where the file does not say it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Absent {
    /// The file must say it where there is none.
    pub(super) heads: Option<u32>,
    /// As many as there are heads, if none.
    pub(super) kv_heads: Option<u32>,
    /// The hidden size shared by the heads, if none.
    pub(super) head_dim: Option<u32>,
    pub(super) vocab: Option<u32>,
    pub(super) positions: u32,
    pub(super) original_positions: Option<f32>,
    pub(super) norm_eps: f32,
    pub(super) theta: f64,
    pub(super) window: Option<u32>,
    pub(super) tied_embeddings: bool,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

/// Where the decoder is in the model.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text {
    /// It is the model.
    Whole,
    /// It is described by `text_config`, and lies beside parts that are not run.
    Part { prefix: &'static str, left_out: &'static [&'static str] },
}

/// Where a block normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum NormPlacement {
    /// Before attention and before the MLP.
    Pre,
    /// Also what each of the two gives, before it is added.
    PreAndPost,
}

/// What a norm multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Gain {
    /// Its weight.
    Weight,
    /// One more than its weight.
    OnePlusWeight,
}

/// Whether the heads of queries and keys are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum HeadNorm {
    Absent,
    QueriesAndKeys,
}

/// How projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Projections {
    /// Each as a tensor.
    Separate,
    /// q, k and v as one, and the gate and the upward layer as one.
    Fused,
}

/// Whether projections add a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BiasRule {
    Never,
    Always,
    /// If the key says so: `attention_bias`, or `mlp_bias`.
    IfSaid,
}

/// The key that names the activation, and what it is where the key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ActivationKey {
    pub(super) key: &'static str,
    pub(super) absent: Activation,
}

/// What the products of queries and keys are multiplied by: one over a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryScale {
    /// Of the width of a head.
    HeadDim,
    /// Of `query_pre_attn_scalar`.
    PreAttentionScalar { absent: u32 },
}

/// The caps that are so where the file does not say it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Softcaps {
    pub(super) attention: Option<f32>,
    pub(super) logits: Option<f32>,
}

/// Which layers attend within `sliding_window`, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    NoLayer,
    EveryLayer,
    /// Those from `max_window_layers` on.
    LaterLayers {
        absent: u32,
    },
    /// All but each n-th, as `sliding_window_pattern` has it.
    AllButEach {
        absent: u32,
    },
    /// Those without rope.
    WithoutRope,
}

/// Whether `use_sliding_window` has to be true for there to be a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowSwitch {
    None,
    UseSlidingWindow,
}

/// Whether `layer_types` decides which layers have a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerTypes {
    /// It may only say what is so anyway.
    Fixed,
    Read,
}

/// Which layers turn by which rope.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ropes {
    /// All by one.
    One,
    /// All by one, whose scaling is always longrope, whatever older files call it.
    Long,
    /// Layers with a window by one of their own.
    ByWindow { local_theta: f64 },
    /// All by one, but those that `no_rope_layers` marks with 0, or each n-th.
    SomeWithout { absent_interval: u32 },
}

/// What follows attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mlps {
    Dense,
    /// Experts, but in `mlp_only_layers` and where `decoder_sparse_step` says otherwise.
    Experts {
        absent: AbsentExperts,
    },
}

/// What is so where the file does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AbsentExperts {
    pub(super) count: u32,
    pub(super) per_token: u32,
    pub(super) intermediate: u32,
}

const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    text: Text::Whole,
    absent: Absent {
        heads: None,
        kv_heads: None,
        head_dim: None,
        vocab: None,
        positions: 2048,
        original_positions: None,
        norm_eps: 1e-6,
        theta: 10_000.0,
        window: None,
        tied_embeddings: false,
        bos: Some(1),
        eos: Some(2),
    },
    norms: NormPlacement::Pre,
    gain: Gain::Weight,
    head_norm: HeadNorm::Absent,
    projections: Projections::Separate,
    qkv_bias: BiasRule::IfSaid,
    o_bias: BiasRule::IfSaid,
    mlp_bias: BiasRule::IfSaid,
    activation: ActivationKey { key: "hidden_act", absent: Activation::Silu },
    scale: QueryScale::HeadDim,
    softcaps: None,
    embedding: super::EmbeddingScale::One,
    windows: Windows::NoLayer,
    window_switch: WindowSwitch::None,
    layer_types: LayerTypes::Fixed,
    ropes: Ropes::One,
    mlps: Mlps::Dense,
};

const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    absent: Absent { kv_heads: Some(8), positions: 131_072, window: Some(4096), ..LLAMA.absent },
    qkv_bias: BiasRule::Never,
    o_bias: BiasRule::Never,
    mlp_bias: BiasRule::Never,
    windows: Windows::EveryLayer,
    ..LLAMA
};

const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    absent: Absent {
        kv_heads: Some(32),
        positions: 32_768,
        window: Some(4096),
        bos: None,
        eos: None,
        ..LLAMA.absent
    },
    qkv_bias: BiasRule::Always,
    o_bias: BiasRule::Never,
    mlp_bias: BiasRule::Never,
    windows: Windows::LaterLayers { absent: 28 },
    window_switch: WindowSwitch::UseSlidingWindow,
    layer_types: LayerTypes::Read,
    ..LLAMA
};

const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    absent: Absent { head_dim: Some(128), ..QWEN2.absent },
    head_norm: HeadNorm::QueriesAndKeys,
    qkv_bias: BiasRule::IfSaid,
    o_bias: BiasRule::IfSaid,
    ..QWEN2
};

const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    absent: Absent { kv_heads: Some(4), head_dim: None, ..QWEN3.absent },
    windows: Windows::EveryLayer,
    layer_types: LayerTypes::Fixed,
    mlps: Mlps::Experts { absent: AbsentExperts { count: 128, per_token: 8, intermediate: 768 } },
    ..QWEN3
};

const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    absent: Absent {
        kv_heads: Some(4),
        head_dim: Some(256),
        positions: 8192,
        window: Some(4096),
        tied_embeddings: true,
        bos: Some(2),
        eos: Some(1),
        ..LLAMA.absent
    },
    norms: NormPlacement::PreAndPost,
    gain: Gain::OnePlusWeight,
    mlp_bias: BiasRule::Never,
    activation: ActivationKey { key: "hidden_activation", absent: Activation::GeluTanh },
    scale: QueryScale::PreAttentionScalar { absent: 256 },
    softcaps: Some(Softcaps { attention: Some(50.0), logits: Some(30.0) }),
    embedding: super::EmbeddingScale::RootOfHidden,
    windows: Windows::AllButEach { absent: 2 },
    layer_types: LayerTypes::Read,
    ..LLAMA
};

const GEMMA3: Family = Family {
    architecture: "Gemma3ForCausalLM",
    absent: Absent {
        heads: Some(8),
        vocab: Some(262_208),
        positions: 131_072,
        theta: 1_000_000.0,
        ..GEMMA2.absent
    },
    head_norm: HeadNorm::QueriesAndKeys,
    softcaps: Some(Softcaps { attention: None, logits: None }),
    windows: Windows::AllButEach { absent: 6 },
    ropes: Ropes::ByWindow { local_theta: 10_000.0 },
    ..GEMMA2
};

/// Its text only: a message with an image has no place here.
const GEMMA3_OF_SEVERAL_PARTS: Family = Family {
    architecture: "Gemma3ForConditionalGeneration",
    text: Text::Part {
        prefix: "language_model.model.",
        left_out: &["vision_tower.", "multi_modal_projector."],
    },
    ..GEMMA3
};

const PHI3: Family = Family {
    architecture: "Phi3ForCausalLM",
    absent: Absent {
        positions: 4096,
        original_positions: Some(4096.0),
        norm_eps: 1e-5,
        eos: Some(32_000),
        ..LLAMA.absent
    },
    projections: Projections::Fused,
    qkv_bias: BiasRule::Never,
    o_bias: BiasRule::Never,
    mlp_bias: BiasRule::Never,
    windows: Windows::EveryLayer,
    ropes: Ropes::Long,
    ..LLAMA
};

const SMOLLM3: Family = Family {
    architecture: "SmolLM3ForCausalLM",
    absent: Absent {
        kv_heads: Some(4),
        positions: 32_768,
        theta: 2_000_000.0,
        tied_embeddings: true,
        bos: Some(128_000),
        eos: Some(128_001),
        ..LLAMA.absent
    },
    windows: Windows::WithoutRope,
    window_switch: WindowSwitch::UseSlidingWindow,
    layer_types: LayerTypes::Read,
    ropes: Ropes::SomeWithout { absent_interval: 4 },
    ..LLAMA
};

const ALL: [&Family; 10] = [
    &LLAMA,
    &MISTRAL,
    &QWEN2,
    &QWEN3,
    &QWEN3_MOE,
    &GEMMA2,
    &GEMMA3,
    &GEMMA3_OF_SEVERAL_PARTS,
    &PHI3,
    &SMOLLM3,
];

impl Family {
    /// The one of that name.
    pub(super) fn of(architecture: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|family| family.architecture == architecture)
    }

    /// All names, for a reader.
    pub(super) fn names() -> String {
        ALL.map(|family| family.architecture).join(", ")
    }
}
