use std::collections::BTreeMap as Map;
use std::path::Path;

use insta::assert_snapshot;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

use super::*;
use crate::ids::Quantize;
use crate::model::{LoadedModel, load};

fn model() -> LoadedModel {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/gqa");
    load(&dir, Quantize::AsStored, &WeightPool::new(), &|_, _| ()).unwrap()
}

/// An adapter that adds to the first layer's queries, and in which `change` changes something.
fn changed(change: impl FnOnce(&mut Value, &mut Map<String, Vec<usize>>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_dora": false});
    let query = |part: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight");
    let mut shapes = Map::from([(query("A"), vec![2, 48]), (query("B"), vec![48, 2])]);
    change(&mut config, &mut shapes);
    std::fs::write(dir.path().join(CONFIG), config.to_string()).unwrap();
    let data = vec![0; 4 * 64 * 64];
    let views = shapes.into_iter().map(|(name, shape)| {
        let bytes = 4 * shape.iter().product::<usize>();
        (name, TensorView::new(Dtype::F32, shape, &data[..bytes]).unwrap())
    });
    serialize_to_file(views, None, &dir.path().join(WEIGHTS)).unwrap();
    match model().adapter(dir.path(), &WeightPool::new()) {
        Ok(adapter) => format!("{:?}", adapter.info()),
        Err(error) => error.to_string().replace(&dir.path().display().to_string(), "DIR"),
    }
}

#[test]
fn what_an_adapter_cannot_be_is_told_with_the_field() {
    assert_snapshot!(changed(|_, _| ()), @"AdapterInfo { rank: 2, weight_bytes: 768, shared_bytes: 0 }");
    let config = |field: &str, value: Value| changed(|config, _| config[field] = value);
    assert_snapshot!(config("peft_type", json!("IA3")), @r#"DIR/adapter_config.json: peft_type: "IA3" is not supported: only "LORA""#);
    assert_snapshot!(config("r", json!(0)), @"DIR/adapter_config.json: r: 0 is out of range: make it 1 to 512");
    assert_snapshot!(config("bias", json!("all")), @r#"DIR/adapter_config.json: bias: "all" is not supported: merge it into its base (merge_and_unload) and serve that as an image"#);
    assert_snapshot!(config("use_dora", json!(true)), @"DIR/adapter_config.json: use_dora: true is not supported: adapters add to the linear projections of layers, and to nothing else; merge it into its base (merge_and_unload) and serve that as an image");
    assert_snapshot!(config("modules_to_save", json!(["lm_head"])), @r#"DIR/adapter_config.json: modules_to_save: ["lm_head"] is not supported: adapters add to the linear projections of layers, and to nothing else; merge it into its base (merge_and_unload) and serve that as an image"#);
    assert_snapshot!(config("alpha_pattern", json!({"layers\\.[01]": 2})), @r#"DIR/adapter_config.json: alpha_pattern: "layers\\.[01]" is a regular expression: only names of modules are read"#);
    assert_snapshot!(config("init_lora_weights", json!("pissa_niter_4")), @r#"DIR/adapter_config.json: init_lora_weights: "pissa_niter_4" changed the base's weights, and the adapter has nothing of that: convert it with PEFT's path_initial_model_for_weight_conversion, or merge it into its base (merge_and_unload) and serve that as an image"#);
    assert_snapshot!(config("rank_pattern", json!({"q_proj": 0})), @r#"DIR/adapter_config.json: rank_pattern: 0 of "q_proj" is out of range: make it 1 to 512"#);
    assert_snapshot!(config("r", json!(3)), @"DIR/adapter_model.safetensors: tensor model.layers.0.self_attn.q_proj.lora_A.weight has shape [2, 48], and the configuration asks for [3, 48]");
    let tensors = |change: fn(&mut Map<String, Vec<usize>>)| changed(|_, shapes| change(shapes));
    assert_snapshot!(tensors(|shapes| drop(shapes.pop_last())), @"DIR/adapter_model.safetensors: tensor model.layers.0.self_attn.q_proj.lora_B.weight of shape [48, 2] is missing");
    assert_snapshot!(tensors(Map::clear), @"DIR/adapter_model.safetensors: it has no tensors");
    assert_snapshot!(tensors(|shapes| {
        shapes.insert("base_model.model.lm_head.lora_A.weight".to_owned(), vec![2, 48]);
    }), @"DIR/adapter_model.safetensors: tensor lm_head.lora_A.weight has no place: adapters add to the projections of attention and of dense MLPs in the 2 layers of the model (LlamaForCausalLM), and to nothing else; merge it into its base (merge_and_unload) and serve that as an image");
}

#[test]
fn a_pattern_names_modules_by_the_end_of_their_names() {
    let patterns = Map::from([("v_proj".to_owned(), 1), ("1.self_attn.q_proj".to_owned(), 2)]);
    let of = |module: &str| pattern(&patterns, module).copied();
    assert_eq!(of("model.layers.0.self_attn.v_proj"), Some(1));
    assert_eq!(of("model.layers.1.self_attn.q_proj"), Some(2));
    assert_eq!(of("model.layers.11.self_attn.q_proj"), None, "it is no end of a word");
    assert_eq!(of("model.layers.0.self_attn.xv_proj"), None);
    usable("r", &patterns).unwrap();
    let two = Map::from([("q_proj".to_owned(), 1), ("1.self_attn.q_proj".to_owned(), 2)]);
    assert!(usable("r", &two).unwrap_err().contains("leave only one"));
}
