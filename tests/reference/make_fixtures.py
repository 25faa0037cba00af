#!/usr/bin/env python3
"""Make the golden models of tests/golden.rs: tiny random decoders, with what Hugging Face computes for them.

usage: make_fixtures.py [OUT]           OUT: tests/fixtures/golden beside this folder
needs: pip install torch transformers tokenizers safetensors numpy   (made with torch 2.15, transformers 5.24)

Each OUT/<name>/ is a model in Hugging Face layout and `golden.safetensors`: the tokens of a prompt, the logits
at each of its positions, and the greedy continuation. All is seeded: the same versions write the same bytes.
"""
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from families import FAMILIES
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "Where is my order? It should have come on Monday, and today is Thursday.",
    "I was charged twice for one month; please send the second payment back to me.",
    "The app closes as soon as I open the settings. Größe, naïve, 東京, emoji 🚲.",
    '{"category": "billing", "priority": "high", "refund": true, "amount": 12.50}',
]
PROMPT = "Where is my order? I was charged twice, please send naïve 🚲 it back."
PROMPT_TOKENS, NEW_TOKENS = 24, 16
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def byte_level():
    """As GPT-2 and Llama 3 have it: each byte is a letter."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|begin|>", "<|start|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(TEXT, trainer)
    tok.post_processor = processors.TemplateProcessing("<|begin|> $0", None, [("<|begin|>", 0)])
    return tok, "<|begin|>", "<|end|>"


def sentence_piece():
    """As Llama 2 has it: a space is ▁, and a byte without a letter of its own is <0xAB>."""
    vocab = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    letters = sorted({c for c in "▁" + TEXT[0] + TEXT[1] if c != " "})
    merges = [("▁", "o"), ("▁o", "r"), ("d", "e"), ("▁or", "de"), ("▁orde", "r"), ("▁", "m"), ("▁m", "y"), ("i", "s")]
    vocab += letters + [a + b for a, b in merges]
    tok = Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(vocab)}, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ["<unk>", "<s>", "</s>"]])
    tok.post_processor = processors.TemplateProcessing("<s> $0", None, [("<s>", 1)])
    return tok, "<s>", "</s>"


# dtype: how the weights are stored; they are computed with in f32 on both sides.
# layout: "transformers 5" writes rope_parameters, "transformers 4" rope_theta and rope_scaling.
MODELS = {
    # 12-wide heads: no vector length divides them
    "gqa": dict(
        dtype=torch.float32,
        layout="transformers 5",
        tokenizer=byte_level,
        config=dict(hidden_size=48, intermediate_size=100, num_attention_heads=4, num_key_value_heads=2),
    ),
    "tied": dict(
        dtype=torch.float16,
        layout="transformers 4",
        tokenizer=sentence_piece,
        config=dict(
            hidden_size=40,
            intermediate_size=72,
            num_attention_heads=4,
            num_key_value_heads=4,
            tie_word_embeddings=True,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0),
        ),
    ),
    # original_max_position_embeddings so small that all three parts of the scaling matter in 40 positions
    "llama3": dict(
        dtype=torch.bfloat16,
        layout="transformers 4",
        shards=2,
        tokenizer=byte_level,
        config=dict(
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=24,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=500000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
    ),
}


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_config(path, config, layout, dtype):
    keys = (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size "
        "max_position_embeddings rms_norm_eps hidden_act tie_word_embeddings attention_bias mlp_bias "
        "bos_token_id eos_token_id"
    )
    out = dict(architectures=["LlamaForCausalLM"], model_type="llama", **{k: getattr(config, k) for k in keys.split()})
    rope = dict(config.rope_parameters)
    if layout == "transformers 5":
        out |= dict(rope_parameters=rope, dtype=str(dtype).removeprefix("torch."))
    else:
        out |= dict(rope_theta=rope.pop("rope_theta"), rope_scaling=rope, torch_dtype=str(dtype).removeprefix("torch."))
    write_json(path, out)


def write_family_config(path, written, layout, dtype):
    """What transformers 5 writes of a config; or the same as version 4 had it, which said less of layers."""
    dtype = str(dtype).removeprefix("torch.")
    out = {k: v for k, v in written.items() if k not in ("transformers_version", "dtype")}
    if layout == "transformers 5":
        write_json(path, out | dict(dtype=dtype))
        return
    rope = dict(out.pop("rope_parameters"))
    out.pop("layer_types", None)
    out.pop("no_rope_layers", None)
    out["rope_theta"] = rope.pop("rope_theta")
    out["partial_rotary_factor"] = rope.pop("partial_rotary_factor", 1.0)
    kind = rope.pop("rope_type")
    out["rope_scaling"] = None if kind == "default" else dict(type=kind, **rope)
    write_json(path, out | dict(torch_dtype=dtype))


def write_weights(out, weights, shards):
    if shards == 1:
        save_torch(weights, out / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {k: v for j, (k, v) in enumerate(sorted(weights.items())) if j % shards == i}
        save_torch(part, out / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    size = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(out / "model.safetensors.index.json", dict(metadata=dict(total_size=size), weight_map=weight_map))


@torch.no_grad()
def draw(model, starts, gains, ids, dtype, seed):
    """Random weights; the logits over `ids` and the greedy continuation, or None if it would test little. `starts` is
    where each gain starts, and `gains` how far it is spread."""
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        # large enough that attention and the gate are far from linear, small enough that f32 stays exact to 1e-5
        noise = torch.randn_like(p)
        # a gain is stored as what it adds to 1 where it starts at 0
        around = 1 if name.endswith("norm.weight") and starts[name] == 1 else 0
        p.copy_((around + (gains if "norm" in name else 0.2) * noise).to(dtype).float())
    full = ids
    for _ in range(NEW_TOKENS):
        following = model(full).logits[0, -1]
        first, second = following.topk(2).values
        if first - second < 0.02:
            return None
        full = torch.cat([full, following.argmax()[None, None]], dim=1)
    if len(full[0, ids.shape[1] :].unique()) < NEW_TOKENS // 2:
        return None  # saying one token for ever would hide a wrong position
    return model(ids).logits[0], full


def make(out, *, dtype, layout, config, family="Llama", architecture=None, tokenizer=byte_level, gains=0.3, shards=1):
    out.mkdir(parents=True, exist_ok=True)
    tok, bos, eos = tokenizer()
    tok.save(str(out / "tokenizer.json"))
    sizes = dict(num_hidden_layers=2, vocab_size=tok.get_vocab_size(), max_position_embeddings=128, rms_norm_eps=1e-5)
    marks = dict(bos_token_id=tok.token_to_id(bos), eos_token_id=tok.token_to_id(eos))
    config = getattr(transformers, f"{family}Config")(**(sizes | marks | config), attn_implementation="eager")
    model = getattr(transformers, f"{architecture or family}ForCausalLM")(config).eval()
    ids = torch.tensor([tok.encode(PROMPT).ids[:PROMPT_TOKENS]])
    assert ids.shape[1] == PROMPT_TOKENS, ids.shape
    starts = {name: p.flatten()[0].item() for name, p in model.named_parameters() if name.endswith("norm.weight")}
    # the first seed with a varied continuation and no near tie, which rounding could decide either way
    runs = (draw(model, starts, gains, ids, dtype, seed) for seed in range(1000))
    logits, full = next(run for run in runs if run is not None)

    with tempfile.TemporaryDirectory() as saved:
        # by the names that files on the Hub have, which are not always the model's own
        model.save_pretrained(saved)
        weights = {k: v.to(dtype).contiguous() for k, v in load_torch(Path(saved) / "model.safetensors").items()}
        written = json.loads((Path(saved) / "config.json").read_text())
    write_weights(out, weights, shards)
    if family == "Llama":
        write_config(out / "config.json", model.config, layout, dtype)
    else:
        write_family_config(out / "config.json", written, layout, dtype)
    write_json(
        out / "tokenizer_config.json",
        dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=bos, eos_token=dict(content=eos), chat_template=CHAT_TEMPLATE),
    )
    write_json(
        out / "generation_config.json",
        dict(eos_token_id=[config.eos_token_id], do_sample=True, temperature=0.7, top_k=0, top_p=0.9),
    )
    # what counts is what the files say: read back, they compute the same
    again = type(model).from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.equal(again(ids).logits[0], logits), f"{out} does not say what was computed"
    golden = dict(
        prompt=ids[0].numpy().astype(np.int32),
        logits=logits.float().numpy(),
        greedy=full[0, PROMPT_TOKENS:].numpy().astype(np.int32),
    )
    save_numpy(golden, out / "golden.safetensors")
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 1000:.0f} kB, logits to {logits.abs().max():.1f}")


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures/golden"
    for name, recipe in (MODELS | FAMILIES).items():
        make(root / name, **recipe)
