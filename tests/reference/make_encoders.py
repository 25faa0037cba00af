#!/usr/bin/env python3
"""Make the golden encoders of tests/encoder.rs: tiny random BERTs, with what Hugging Face computes for them.

usage: make_encoders.py [OUT]           OUT: tests/fixtures/encoder beside this folder
needs: pip install torch transformers sentence-transformers tokenizers safetensors numpy
       (made with torch 2.15, transformers 5.24, sentence-transformers 6.2)

Each OUT/<name>/ is a sentence encoder as sentence-transformers writes it, and `golden.safetensors`: the embeddings of
TEXTS, which lie in OUT/texts.json. All is seeded: the same versions write the same bytes.
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

MOST_TOKENS = 24
TEXTS = [
    "the parcel has not arrived",
    "My package is missing!",
    "",
    "Größe, naïve, 東京, emoji 🚲 and a ﬁ ligature",
    "refund",
    # far more than MOST_TOKENS, and what differs comes after the cut
    "where is my order? " * 20,
    "where is my order? " * 20 + "it was sent to tokyo",
    '{"intent": "refund", "priority": "high", "reply": "it is on its way"}',
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_piece(accents):
    """As BERT has it. `accents`: whether they are stripped, as in the uncased models."""
    normal = normalizers.BertNormalizer(lowercase=accents, strip_accents=accents)
    split = pre_tokenizers.BertPreTokenizer()
    words = [w for text in TEXTS[:-1] for w, _ in split.pre_tokenize_str(normal.normalize_str(text))]
    # the emoji stays unknown; training a vocabulary would break its ties by chance
    letters = sorted({c for w in words for c in w} - {"🚲"})
    vocab = SPECIAL + letters + [f"##{c}" for c in letters] + sorted({w for w in words if 1 < len(w) < 8})
    tok = Tokenizer(models.WordPiece({t: i for i, t in enumerate(dict.fromkeys(vocab))}, unk_token="[UNK]"))
    tok.normalizer, tok.pre_tokenizer = normal, split
    ends = [(t, tok.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tok.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    # as training leaves it behind: what counts is the model's own longest text
    tok.enable_truncation(12)
    tok.enable_padding(length=12)
    return tok


# layout: "sentence-transformers 2" is how all-MiniLM-L6-v2 lies on the Hub, 6 is how a model is saved today.
MODELS = {
    # 12-wide heads: no vector length divides them
    "mean": dict(
        pooling="mean",
        layout="sentence-transformers 2",
        dtype=torch.float32,
        accents=True,
        config=dict(hidden_size=24, intermediate_size=60, num_attention_heads=2),
    ),
    "cls": dict(
        pooling="cls",
        layout="sentence-transformers 6",
        dtype=torch.float16,
        accents=False,
        config=dict(hidden_size=32, intermediate_size=56, num_attention_heads=4),
    ),
}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_layout(out, layout, pooling, hidden):
    old = layout == "sentence-transformers 2"
    homes = dict(
        Transformer="base.modules.transformer",
        Pooling="sentence_transformer.modules.pooling",
        Normalize="base.modules.normalize",
    )
    write_json(
        out / "modules.json",
        [
            dict(
                idx=i,
                name=str(i),
                path=f"{i}_{kind}" if i else "",
                type=f"sentence_transformers.{'models' if old else home}.{kind}",
            )
            for i, (kind, home) in enumerate(homes.items())
        ],
    )
    if old:
        modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "sqrt": "mean_sqrt_len_tokens"}
        flags = {f"pooling_mode_{name}": pooling == mode for mode, name in modes.items()}
        write_json(out / "1_Pooling/config.json", dict(word_embedding_dimension=hidden, **flags))
        write_json(out / "sentence_bert_config.json", dict(max_seq_length=MOST_TOKENS, do_lower_case=False))
    else:
        mode = dict(embedding_dimension=hidden, pooling_mode=pooling, include_prompt=True)
        write_json(out / "1_Pooling/config.json", mode)
        write_json(out / "sentence_bert_config.json", dict(transformer_task="feature-extraction"))
        write_json(
            out / "config_sentence_transformers.json",
            dict(default_prompt_name=None, prompts=dict(query="", document=""), similarity_fn_name="cosine"),
        )


@torch.no_grad()
def make(out, *, pooling, layout, dtype, accents, config):
    out.mkdir(parents=True, exist_ok=True)
    tok = word_piece(accents)
    tok.save(str(out / "tokenizer.json"))
    write_layout(out, layout, pooling, config["hidden_size"])
    config = BertConfig(
        num_hidden_layers=2,
        vocab_size=tok.get_vocab_size(),
        max_position_embeddings=40,
        architectures=["BertModel"],
        attn_implementation="eager",
        **config,
    )
    model = BertModel(config).eval()
    torch.manual_seed(7)
    for name, p in model.named_parameters():
        # large enough that attention and GELU are far from linear, small enough that f32 stays exact to 1e-5
        noise = torch.randn_like(p)
        scale = 1.0 if "word_embeddings" in name else 0.1 if name.endswith("bias") else 0.3
        p.copy_((float(name.endswith("LayerNorm.weight")) + scale * noise).to(dtype).float())
    weights = {k: v.detach().to(dtype).contiguous() for k, v in model.state_dict().items()}
    # older versions of transformers saved it, and the files on the Hub have it
    weights["embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    save_torch(weights, out / "model.safetensors", metadata={"format": "pt"})
    keys = (
        "architectures model_type hidden_size intermediate_size num_hidden_layers num_attention_heads vocab_size "
        "max_position_embeddings type_vocab_size layer_norm_eps hidden_act pad_token_id"
    )
    said = {k: getattr(config, k) for k in keys.split()} | dict(position_embedding_type="absolute")
    write_json(out / "config.json", said)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL))
    about = dict(tokenizer_class="PreTrainedTokenizerFast", model_max_length=MOST_TOKENS, **names)
    write_json(out / "tokenizer_config.json", about)

    # one padded batch with its mask
    fast = PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"), **names)
    batch = fast(TEXTS, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
    assert batch["input_ids"].shape[1] == MOST_TOKENS
    again = BertModel.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    hidden = again(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    pooled = (hidden * mask).sum(1) / mask.sum(1) if pooling == "mean" else hidden[:, 0]
    embeddings = torch.nn.functional.normalize(pooled)
    library = SentenceTransformer(str(out), device="cpu", model_kwargs=dict(dtype=torch.float32))
    same = torch.allclose(library.encode(TEXTS, convert_to_tensor=True), embeddings, atol=1e-5)
    assert same, f"{out} is not what sentence-transformers reads"
    save_numpy(dict(embeddings=embeddings.numpy()), out / "golden.safetensors")
    cosines = embeddings @ embeddings.T
    print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*.*')) / 1000:.0f} kB, {tok.get_vocab_size()} tokens")
    print(torch.round(cosines, decimals=2))


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures/encoder"
    write_json(root / "texts.json", TEXTS)
    for name, recipe in MODELS.items():
        make(root / name, **recipe)
