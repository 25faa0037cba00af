#!/usr/bin/env python3
"""Make the golden cross-encoders of tests/reranker.rs: tiny random ones, with the scores that Hugging Face computes for them.

usage: make_rerankers.py [OUT]           OUT: tests/fixtures/reranker beside this folder
needs: pip install torch transformers tokenizers safetensors numpy   (made with torch 2.15, transformers 5.24)

Each OUT/<name>/ is a model with one label, as `cross-encoder/ms-marco-MiniLM-L6-v2` and `BAAI/bge-reranker-base` lie on the Hub,
and `golden.safetensors`: of each of PAIRS, which lie in OUT/pairs.json, the sigmoid of its logit, and its tokens. All is
seeded: the same versions write the same bytes.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

MOST_TOKENS = 24
QUERY = "where is my parcel"
PAIRS = [
    (QUERY, "the parcel has not arrived"),
    (QUERY, "My package is missing!"),
    (QUERY, "refund"),
    (QUERY, ""),
    ("", "refund"),
    (QUERY, "Größe, naïve, 東京, emoji 🚲"),
    # far more than MOST_TOKENS: the longer of the two is cut
    (QUERY, "where is my order? " * 20),
    ("where is my order? " * 20, "my parcel is missing, and where is my order? it was sent to tokyo"),
]


def word_piece():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normal = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    split = pre_tokenizers.BertPreTokenizer()
    words = [w for pair in PAIRS for t in pair for w, _ in split.pre_tokenize_str(normal.normalize_str(t))]
    letters = sorted({c for w in words for c in w} - {"🚲"})
    vocab = special + letters + [f"##{c}" for c in letters] + sorted({w for w in words if 1 < len(w) < 8})
    tok = Tokenizer(models.WordPiece({t: i for i, t in enumerate(dict.fromkeys(vocab))}, unk_token="[UNK]"))
    tok.normalizer, tok.pre_tokenizer = normal, split
    ends = [(t, tok.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tok.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    return tok, dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def unigram():
    """As XLM-RoBERTa has it: scores of pieces, and all of a pair is one segment."""
    letters = sorted({c for pair in PAIRS for t in pair for c in t} - {"🚲", " "})
    words = ["where", "is", "my", "parcel", "order", "refund", "missing", "the"]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{w}", -4.0 - i / 10) for i, w in enumerate(words)] + [(c, -8.0 - i / 50) for i, c in enumerate(letters)]
    tok = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    ends = [("<s>", 0), ("</s>", 2)]
    tok.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    return tok, dict(pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>")


MODELS = {
    # 12-wide heads: no vector length divides them
    "bert": dict(
        family="Bert",
        dtype=torch.float32,
        tokenizer=word_piece,
        config=dict(hidden_size=24, intermediate_size=60, num_attention_heads=2, max_position_embeddings=40),
    ),
    # positions start after that of the padding
    "xlm_roberta": dict(
        family="XLMRoberta",
        dtype=torch.float16,
        tokenizer=unigram,
        config=dict(
            hidden_size=32,
            intermediate_size=56,
            num_attention_heads=4,
            max_position_embeddings=42,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        ),
    ),
}


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@torch.no_grad()
def make(out, *, family, dtype, tokenizer, config):
    out.mkdir(parents=True, exist_ok=True)
    tok, special = tokenizer()
    tok.save(str(out / "tokenizer.json"))
    config = getattr(transformers, f"{family}Config")(
        num_hidden_layers=2, vocab_size=tok.get_vocab_size(), num_labels=1, attn_implementation="eager", **config
    )
    kind = getattr(transformers, f"{family}ForSequenceClassification")
    model = kind(config).eval()
    torch.manual_seed(11)
    for name, p in model.named_parameters():
        # large enough that attention, GELU and tanh are far from linear, small enough that f32 stays exact to 1e-5
        noise = torch.randn_like(p)
        scale = 1.0 if "word_embeddings" in name else 0.1 if name.endswith("bias") else 0.3
        p.copy_((float(name.endswith("LayerNorm.weight")) + scale * noise).to(dtype).float())
    weights = {k: v.detach().to(dtype).contiguous() for k, v in model.state_dict().items()}
    save_torch(weights, out / "model.safetensors", metadata={"format": "pt"})
    keys = (
        "model_type hidden_size intermediate_size num_hidden_layers num_attention_heads vocab_size "
        "max_position_embeddings type_vocab_size layer_norm_eps hidden_act pad_token_id id2label"
    )
    said = {k: getattr(config, k) for k in keys.split()}
    write_json(out / "config.json", dict(architectures=[kind.__name__], **said))
    about = dict(tokenizer_class="PreTrainedTokenizerFast", model_max_length=MOST_TOKENS, **special)
    write_json(out / "tokenizer_config.json", about)

    again = kind.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    fast = PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"), **special)
    wanted = ["input_ids", "attention_mask", "token_type_ids"]
    # one padded batch with its mask
    batch = fast(PAIRS, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt", return_token_type_ids=True)
    batch = {k: batch[k] for k in wanted}
    assert batch["input_ids"].shape[1] == MOST_TOKENS
    if family == "XLMRoberta":
        assert not batch["token_type_ids"].any()
    scores = torch.sigmoid(again(**batch).logits[:, 0])
    tokens = batch["attention_mask"].sum(1)
    save_numpy(dict(scores=scores.numpy(), tokens=tokens.numpy().astype(np.int32)), out / "golden.safetensors")
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 1000:.0f} kB, {tok.get_vocab_size()} tokens, {scores}")


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures/reranker"
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "pairs.json", PAIRS)
    for name, recipe in MODELS.items():
        make(root / name, **recipe)
