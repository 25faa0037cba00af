#!/usr/bin/env python3
"""Make the LoRA adapters of tests/adapters.rs, for the golden models, with what PEFT computes through them.

usage: make_adapters.py [OUT]           OUT: tests/fixtures/adapters beside this folder
needs: pip install torch transformers peft safetensors numpy   (made with torch 2.15, transformers 5.24, peft 0.21.2)

Each OUT/<name>/ is an adapter in PEFT's layout for the golden model `base`, and `golden.safetensors`: the logits at each
position of that model's prompt, through the adapter. All is seeded: the same versions write the same bytes.
"""
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    # all there is, and some of it with ranks and scales of its own
    "gqa_all": dict(
        base="gqa", r=4, lora_alpha=8, target_modules=ATTENTION + MLP,
        rank_pattern={"down_proj": 6}, alpha_pattern={"layers.0.self_attn.q_proj": 2},
    ),
    # as many are trained: queries and values, scaled by the root of the rank
    "gqa_qv": dict(base="gqa", r=3, lora_alpha=4, target_modules=["q_proj", "v_proj"], use_rslora=True),
    # projections that are stored together
    "phi3_fused": dict(base="phi3", r=4, lora_alpha=8, target_modules=["qkv_proj", "gate_up_proj"]),
    "gemma2_all": dict(base="gemma2", r=4, lora_alpha=4, target_modules=ATTENTION + MLP),
}


def make(out, base, seed, **settings):
    golden = HERE.parent / "fixtures/golden" / base
    torch.manual_seed(seed)
    # eager: what is computed is what the formulas say
    model = AutoModelForCausalLM.from_pretrained(golden, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings)).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            # both matrices: PEFT starts the second at zero
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    with safe_open(golden / "golden.safetensors", "pt") as file:
        prompt = file.get_tensor("prompt").to(torch.int64)
    with torch.no_grad():
        logits = model(prompt.reshape(1, -1)).logits[0].float().contiguous()
    save_file({"logits": logits}, out / "golden.safetensors")
    config = out / "adapter_config.json"
    written = json.loads(config.read_text())
    # where the base lay on the machine that made it
    written["base_model_name_or_path"] = base
    config.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def main(out):
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        make(out / name, seed=seed, **settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "fixtures/adapters")
