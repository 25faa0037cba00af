#!/usr/bin/env python3
"""Make the GGUF files of tests/gguf.rs out of golden models, by the writer and the names of llama.cpp's own package.

usage: make_gguf.py [OUT]           OUT: tests/fixtures/gguf beside this folder
needs: pip install gguf safetensors numpy   (made with gguf 0.19)

Tensors are stored as the golden models have them, norms and biases as f32; the tokenizer is that of the golden model. Each is as
llama.cpp's converter would write it: the rows of a Llama's queries and keys are reordered.
"""
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parent.parent / "fixtures/golden"
MODELS = {"qwen3": gguf.MODEL_ARCH.QWEN3, "tied": gguf.MODEL_ARCH.LLAMA}


def interleave(rows, heads):
    """Of each head a row of its first half and one of its second by turns."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write_sizes(out, config):
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or dict(rope_theta=config["rope_theta"], **config["rope_scaling"])
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_key_length(head_dim)
    out.add_value_length(head_dim)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_freq_base(rope["rope_theta"])
    out.add_rope_dimension_count(head_dim)
    if rope["rope_type"] == "linear":
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(rope["factor"])


def write_tokenizer(out, config, tokenizer, words):
    model = tokenizer["model"]
    tokens = [text for text, _ in sorted(model["vocab"].items(), key=lambda pair: pair[1])]
    kinds = [gguf.TokenType.BYTE if text.startswith("<0x") else gguf.TokenType.NORMAL for text in tokens]
    for added in tokenizer["added_tokens"]:
        unknown = added["content"] == "<unk>"
        kinds[added["id"]] = gguf.TokenType.UNKNOWN if unknown else gguf.TokenType.CONTROL
    if model["byte_fallback"]:
        made = {a + b: -float(i) for i, (a, b) in enumerate(model["merges"])}
        out.add_tokenizer_model("llama")
        out.add_tokenizer_pre("default")
        out.add_token_scores([made.get(text, -1000.0) for text in tokens])
    else:
        out.add_tokenizer_model("gpt2")
        out.add_tokenizer_pre("gpt-2")
        out.add_token_merges([f"{a} {b}" for a, b in model["merges"]])
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_bos_token_id(config["bos_token_id"])
    out.add_eos_token_id(config["eos_token_id"])
    out.add_add_bos_token(True)
    out.add_chat_template(words["chat_template"])


def make(name, arch, path):
    folder = GOLDEN / name
    read = lambda file: json.loads((folder / file).read_text())
    config = read("config.json")
    out = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    out.add_type(gguf.GGUFType.MODEL)
    out.add_name(name)
    write_sizes(out, config)
    write_tokenizer(out, config, read("tokenizer.json"), read("tokenizer_config.json"))
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for theirs, tensor in load_file(folder / "model.safetensors").items():
        ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        if arch == gguf.MODEL_ARCH.LLAMA and ".attn_q." in ours:
            tensor = interleave(tensor, config["num_attention_heads"])
        if arch == gguf.MODEL_ARCH.LLAMA and ".attn_k." in ours:
            tensor = interleave(tensor, config["num_key_value_heads"])
        out.add_tensor(ours, tensor.astype(np.float32) if tensor.ndim == 1 else np.ascontiguousarray(tensor))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures/gguf"
    root.mkdir(parents=True, exist_ok=True)
    for name, arch in MODELS.items():
        make(name, arch, root / f"{name}.gguf")
