//! What files say, and what becomes of it.

use serde_json::{Value, json};

use super::*;
use crate::model::rope::{Ramp, Rope, RopeScaling};
use crate::tensor::Attention;

fn read(change: impl FnOnce(&mut Value)) -> Result<Config, String> {
    read_as("LlamaForCausalLM", change)
}

fn read_as(architecture: &str, change: impl FnOnce(&mut Value)) -> Result<Config, String> {
    let mut config = json!({
        "architectures": [architecture], "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
    });
    change(&mut config);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    Config::read(&path).map_err(|e| e.to_string())
}

#[test]
fn what_is_left_out_is_what_transformers_takes() {
    let config = read(|_| ()).unwrap();
    assert_eq!((config.kv_heads, config.head_dim, config.max_positions), (4, 12, 2048));
    assert_eq!(config.ropes, [Rope { theta: 10_000.0, turned: 12, scaling: RopeScaling::None }]);
    assert!(config.layers.iter().all(|layer| layer.attention == Attention::of_heads(12)));
    assert!(!config.tied_embeddings);
    assert_eq!((config.bos, config.eos), (Marks::Assumed(vec![1]), Marks::Assumed(vec![2])));
    // a vocabulary without such a token is no error: nobody named it
    let tiny = read(|c| c["vocab_size"] = json!(2)).unwrap();
    assert_eq!((tiny.bos, tiny.eos), (Marks::Assumed(vec![1]), Marks::Assumed(Vec::new())));
}

#[test]
fn eos_is_one_token_or_several_or_said_to_be_none() {
    let cases = [
        (json!(2), vec![2]),
        (json!([2, 9]), vec![2, 9]),
        (json!(-1), vec![]),
        (json!(null), vec![]),
        (json!([]), vec![]),
    ];
    for (given, eos) in cases {
        let config = read(|c| c["eos_token_id"] = given.clone()).unwrap();
        assert_eq!(config.eos, Marks::Named(eos), "{given}");
    }
}

#[test]
fn the_old_and_the_new_way_to_write_rope_mean_the_same() {
    let old = read(|c| {
        c["rope_theta"] = json!(5e5);
        c["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
    });
    let new =
        read(|c| c["rope_parameters"] = json!({"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}));
    let both = read(|c| {
        c["rope_theta"] = json!(5e5);
        c["rope_scaling"] = json!({"type": "linear", "rope_type": "linear", "factor": 2.0});
    });
    let old = old.unwrap().ropes;
    assert_eq!(old, new.unwrap().ropes);
    assert_eq!(old, both.unwrap().ropes);
}

#[test]
fn an_error_names_the_file_the_field_and_what_was_found() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 18] = [
        (|c| c["architectures"] = json!(["GPT2LMHeadModel"]), "GPT2LMHeadModel"),
        (|c| c["architectures"] = json!([]), "none"),
        (|c| c["hidden_size"] = json!("wide"), "hidden_size"),
        (|c| c["vocab_size"] = json!(0), "vocab_size"),
        (|c| c["num_key_value_heads"] = json!(3), "multiple"),
        (|c| c["num_attention_heads"] = json!(5), "head_dim"),
        (|c| c["head_dim"] = json!(7), "odd"),
        (|c| c["hidden_act"] = json!("gelu"), "gelu"),
        (|c| c["quantization_config"] = json!({}), "quantization_config"),
        (|c| c["rope_scaling"] = json!({"rope_type": "dynamic", "factor": 2.0}), "dynamic"),
        (|c| c["rope_scaling"] = json!({"rope_type": "linear"}), "rope_scaling.factor"),
        (|c| c["rope_scaling"] = json!({"rope_type": "linear", "type": "llama3"}), "rope_scaling.type"),
        (|c| c["eos_token_id"] = json!([2, 100]), "eos_token_id: 100"),
        (|c| c["eos_token_id"] = json!(-2), "eos_token_id: -2"),
        (|c| c["bos_token_id"] = json!(5_000_000_000_i64), "bos_token_id: 5000000000"),
        (|c| c["rope_parameters"] = json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
        (|c| c["rope_parameters"] = json!({"full_attention": {}}), "rope_parameters.full_attention"),
        (|c| c["partial_rotary_factor"] = json!(0.5), "partial_rotary_factor: 0.5"),
    ];
    for (change, names) in cases {
        let error = read(change).unwrap_err();
        assert!(error.contains("config.json") && error.contains(names), "{error} does not name {names}");
    }
}

/// The window of each layer.
fn windows(config: &Config) -> Vec<Option<usize>> {
    config.layers.iter().map(|layer| layer.attention.window).collect()
}

#[test]
fn which_layers_have_a_window_is_what_transformers_makes_of_the_file() {
    type Change = fn(&mut Value);
    let (no, w) = (None, Some(7));
    let cases: [(&str, Change, [Option<usize>; 4]); 16] = [
        ("Llama", |c| c["sliding_window"] = json!(7), [no; 4]),
        ("Mistral", |c| c["sliding_window"] = json!(7), [w; 4]),
        ("Mistral", |c| c["sliding_window"] = json!(null), [no; 4]),
        ("Mistral", |_| (), [Some(4096); 4]),
        ("Phi3", |c| c["sliding_window"] = json!(7), [w; 4]),
        ("Phi3", |_| (), [no; 4]),
        ("Qwen2", |c| c["sliding_window"] = json!(7), [no; 4]),
        ("Qwen2", |c| merge(c, json!({"sliding_window": 7, "use_sliding_window": true})), [no; 4]),
        (
            "Qwen3",
            |c| merge(c, json!({"sliding_window": 7, "use_sliding_window": true, "max_window_layers": 2})),
            [no, no, w, w],
        ),
        (
            "Qwen3Moe",
            |c| merge(c, json!({"sliding_window": 7, "use_sliding_window": true, "max_window_layers": 2})),
            [w; 4],
        ),
        ("Gemma2", |c| c["sliding_window"] = json!(7), [w, no, w, no]),
        ("Gemma3", |c| merge(c, json!({"sliding_window": 7, "sliding_window_pattern": 3})), [w, w, no, w]),
        ("Gemma3", |c| c["sliding_window"] = json!(7), [w; 4]),
        (
            "Gemma3",
            |c| {
                let kinds =
                    json!(["full_attention", "sliding_attention", "full_attention", "full_attention"]);
                merge(c, json!({"sliding_window": 7, "layer_types": kinds}));
            },
            [no, w, no, no],
        ),
        ("SmolLM3", |c| c["sliding_window"] = json!(7), [no; 4]),
        (
            "SmolLM3",
            |c| {
                let (rope, window) = (json!([1, 0, 1, 0]), json!(7));
                merge(
                    c,
                    json!({"sliding_window": window, "use_sliding_window": true, "no_rope_layers": rope}),
                );
            },
            [no, w, no, w],
        ),
    ];
    for (i, (family, change, expected)) in cases.into_iter().enumerate() {
        let config = read_as(&format!("{family}ForCausalLM"), |c| {
            merge(c, json!({"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 12}));
            change(c);
        });
        assert_eq!(windows(&config.unwrap()), expected, "{family}, case {i}");
    }
}

fn merge(config: &mut Value, more: Value) {
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
}

#[test]
fn a_gemma_says_much_by_its_name_alone() {
    let gemma2 = read_as("Gemma2ForCausalLM", |_| ()).unwrap();
    let attention = gemma2.layers[1].attention;
    assert_eq!(attention, Attention { scale: 1.0 / 16.0, softcap: Some(50.0), window: None });
    assert_eq!((gemma2.logit_softcap, gemma2.tied_embeddings, gemma2.head_dim), (Some(30.0), true, 256));
    assert_eq!((gemma2.gain, gemma2.norms), (Gain::OnePlusWeight, NormPlacement::PreAndPost));
    let uncapped = read_as("Gemma2ForCausalLM", |c| c["attn_logit_softcapping"] = json!(null)).unwrap();
    assert_eq!(uncapped.layers[0].attention.softcap, None, "null is no cap, and left out is the usual one");

    // as older and newer files say which rope is whose
    let old = json!({"rope_theta": 5e5, "rope_local_base_freq": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let new = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    }});
    for file in [old, new] {
        let gemma3 = read_as("Gemma3ForCausalLM", |c| {
            merge(c, file);
            c["sliding_window_pattern"] = json!(2);
        })
        .unwrap();
        let linear = RopeScaling::Linear { factor: 8.0 };
        let [global, local] = [(5e5, linear), (5e3, RopeScaling::None)].map(|(theta, scaling)| Rope {
            theta,
            turned: 256,
            scaling,
        });
        assert_eq!(gemma3.ropes, [global, local]);
        assert_eq!(gemma3.layers.iter().map(|layer| layer.rope).collect::<Vec<_>>(), [Some(1), Some(0)]);
    }
}

#[test]
fn the_text_of_a_model_of_several_parts_is_read_from_its_own_section() {
    let whole = read_as("Gemma3ForConditionalGeneration", |c| {
        let text = json!({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "sliding_window": 1024});
        merge(c, json!({"text_config": text, "vision_config": {}}));
    })
    .unwrap();
    assert_eq!((whole.hidden, whole.heads, whole.kv_heads, whole.vocab), (64, 8, 4, 262_208));
    assert_eq!(whole.tensor("norm.weight"), "language_model.model.norm.weight");
    assert_eq!(whole.head_name(), "language_model.lm_head.weight");
}

#[test]
fn experts_are_in_every_layer_but_those_that_the_file_names() {
    let layers = |change: fn(&mut Value)| {
        let config = read_as("Qwen3MoeForCausalLM", |c| {
            merge(c, json!({"num_hidden_layers": 4, "num_experts": 6, "num_experts_per_tok": 2}));
            c["num_key_value_heads"] = json!(2);
            change(c);
        });
        let layers = config.unwrap().layers;
        layers.iter().map(|layer| matches!(layer.mlp, Mlp::Sparse(_))).collect::<Vec<_>>()
    };
    let (dense, sparse) = (false, true);
    assert_eq!(layers(|_| ()), [sparse; 4]);
    assert_eq!(layers(|c| c["mlp_only_layers"] = json!([0, 3])), [dense, sparse, sparse, dense]);
    assert_eq!(layers(|c| c["decoder_sparse_step"] = json!(2)), [dense, sparse, dense, sparse]);
}

#[test]
fn longrope_takes_the_long_factors_where_the_model_is_longer_than_it_was() {
    let read = |positions: u32| {
        let config = read_as("Phi3ForCausalLM", |c| {
            let factors = json!({"type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]});
            merge(c, json!({"max_position_embeddings": positions, "original_max_position_embeddings": 4096}));
            merge(c, json!({"partial_rotary_factor": 0.34, "rope_scaling": factors}));
        });
        config.unwrap().ropes[0].clone()
    };
    let expected = |factors: [f32; 2], attention_factor| {
        let scaling = RopeScaling::LongRope { factors: factors.to_vec(), attention_factor };
        Rope { theta: 10_000.0, turned: 4, scaling }
    };
    assert_eq!(read(4096), expected([1.0, 2.0], 1.0));
    let sharper = (1.0 + 32_f32.ln() / 4096_f32.ln()).sqrt();
    assert_eq!(read(131_072), expected([3.0, 4.0], sharper));
}

#[test]
fn yarn_takes_what_is_left_out_as_transformers_does() {
    let config = read_as("Qwen2ForCausalLM", |c| {
        merge(c, json!({"num_key_value_heads": 2, "max_position_embeddings": 512}));
        c["rope_scaling"] = json!({"type": "yarn", "factor": 4.0});
    });
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_positions: 512.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        ramp: Ramp::WholePairs,
        attention_factor: 0.1 * 4_f32.ln() + 1.0,
    };
    assert_eq!(config.unwrap().ropes[0].scaling, yarn);
}

#[test]
fn what_a_family_cannot_do_is_named() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 9] = [
        ("Gemma2", |c| c["use_bidirectional_attention"] = json!(true), "use_bidirectional_attention: true"),
        ("Gemma2", |c| c["hidden_activation"] = json!("gelu"), "hidden_activation: \"gelu\""),
        ("Gemma2", |c| c["final_logit_softcapping"] = json!(0.0), "final_logit_softcapping: 0"),
        ("Gemma2", |c| c["query_pre_attn_scalar"] = json!(0), "query_pre_attn_scalar: 0"),
        ("Gemma2", |c| c["sliding_window"] = json!(null), "layer 0 is sliding_attention"),
        ("Gemma2", |c| c["layer_types"] = json!(["full_attention"]), "layer_types: 1 of them"),
        (
            "Mistral",
            |c| c["layer_types"] = json!(["full_attention", "sliding_attention"]),
            "layer_types: Mistral",
        ),
        ("Qwen3Moe", |c| c["num_experts_per_tok"] = json!(200), "num_experts_per_tok: 200"),
        (
            "Phi3",
            |c| c["rope_scaling"] = json!({"type": "su", "short_factor": [1.0], "long_factor": [1.0]}),
            "rope_scaling.short_factor: 1 factors for 6 pairs",
        ),
    ];
    for (family, change, names) in cases {
        let error = read_as(&format!("{family}ForCausalLM"), |c| {
            c["num_key_value_heads"] = json!(2);
            change(c);
        });
        let error = error.unwrap_err();
        assert!(error.contains(names), "{error} does not name {names}");
    }
}
