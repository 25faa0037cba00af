"""One tiny random model for each family of decoders that src/model runs beside Llama, as make_fixtures.py makes them.

Small as they are, what makes a family differ must show in 40 positions: windows are shorter than the prompt, soft caps
bite, scalings of rope begin before the prompt ends, and layers of both kinds are there.
"""
import torch


def sizes(hidden, intermediate, heads, kv_heads, layers=3, **more):
    return dict(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_hidden_layers=layers,
        **more,
    )


# gains: how far they are spread. Where the embedding is the last layer, too, and large beside what layers add, a wide
# spread keeps the model from saying one token for ever.
# layout: "transformers 5" is what it writes itself, "transformers 4" what most files on the Hub look like.
FAMILIES = {
    # heads that together are wider than the model; each layer has a window
    "mistral": dict(
        family="Mistral",
        dtype=torch.bfloat16,
        layout="transformers 4",
        config=sizes(32, 64, 4, 2, layers=2, head_dim=12, sliding_window=7),
    ),
    # biases on q, k and v; the first layer without a window; yarn
    "qwen2": dict(
        family="Qwen2",
        dtype=torch.bfloat16,
        layout="transformers 4",
        config=sizes(
            32,
            64,
            4,
            2,
            use_sliding_window=True,
            sliding_window=9,
            max_window_layers=1,
            rope_parameters=dict(
                rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=32
            ),
        ),
    ),
    # norms of each head; tied
    "qwen3": dict(
        family="Qwen3",
        dtype=torch.float16,
        layout="transformers 5",
        config=sizes(32, 64, 4, 2, layers=2, head_dim=12, tie_word_embeddings=True),
    ),
    # 2 of 6 experts a token, but in the layer in the middle. In f32, as rounding to bf16 on a GPU would now and then pick
    # another expert
    "qwen3_moe": dict(
        family="Qwen3Moe",
        dtype=torch.float32,
        layout="transformers 5",
        config=sizes(
            32,
            64,
            4,
            2,
            head_dim=12,
            attention_bias=True,
            num_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=20,
            norm_topk_prob=True,
            mlp_only_layers=[1],
        ),
    ),
    # both soft caps; a hidden size without a whole root, so stored such that the root is not rounded
    "gemma2": dict(
        family="Gemma2",
        dtype=torch.float32,
        layout="transformers 4",
        gains=1.0,
        config=sizes(
            28,
            48,
            4,
            2,
            head_dim=12,
            sliding_window=7,
            query_pre_attn_scalar=10,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=4.0,
        ),
    ),
    # two ropes, by the kind of layer
    "gemma3": dict(
        family="Gemma3Text",
        architecture="Gemma3",
        dtype=torch.bfloat16,
        layout="transformers 5",
        gains=1.0,
        config=sizes(
            36,
            48,
            4,
            1,
            layers=4,
            head_dim=12,
            sliding_window=7,
            query_pre_attn_scalar=10,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=100000.0, factor=8.0),
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
            ),
        ),
    ),
    # fused projections; three quarters of a head turn, by the long factors
    "phi3": dict(
        family="Phi3",
        dtype=torch.bfloat16,
        layout="transformers 4",
        config=sizes(
            64,
            48,
            4,
            2,
            layers=2,
            sliding_window=11,
            original_max_position_embeddings=16,
            partial_rotary_factor=0.75,
            pad_token_id=None,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=10000.0,
                short_factor=[1.0, 1.0, 1.25, 1.5, 2.0, 2.0],
                long_factor=[1.0, 1.5, 2.0, 4.0, 6.0, 8.0],
            ),
        ),
    ),
    # every second layer without rope
    "smollm3": dict(
        family="SmolLM3",
        dtype=torch.bfloat16,
        layout="transformers 4",
        config=sizes(
            32,
            64,
            4,
            2,
            layers=4,
            no_rope_layer_interval=2,
            pad_token_id=None,
            rope_parameters=dict(rope_type="default", rope_theta=5000000.0),
        ),
    ),
}
