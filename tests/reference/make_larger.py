#!/usr/bin/env python3
"""A model that answers as a model of the demo does and costs as much as a larger one, to measure what a draft saves.

    python make_larger.py ../../models/v1 /tmp/larger --layers 12 --intermediate 4096

Layers are added that add nothing, as the last matrices of their two halves are zero, and every MLP is made wider by
units whose output is zero. So each row goes through all of it, and every logit stays what it was. Needs numpy and
safetensors.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np
from safetensors import deserialize


def matrix(rows, cols, dice):
    """Small random numbers, as bf16 stores them."""
    values = (dice.standard_normal((rows, cols), dtype=np.float32) * 0.02).view(np.uint32) >> 16
    return values.astype(np.uint16)


def widened(weight, rows, cols):
    """The same matrix with zeros to the right and below."""
    wide = np.zeros((rows, cols), dtype=np.uint16)
    wide[: weight.shape[0], : weight.shape[1]] = weight
    return wide


def write(path, tensors):
    """A file in the format of safetensors."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--intermediate", type=int, default=4096)
    args = parser.parse_args()

    args.target.mkdir(parents=True, exist_ok=True)
    for file in args.source.iterdir():
        shutil.copy(file, args.target / file.name)
    config = json.loads((args.source / "config.json").read_text())
    hidden, own = config["hidden_size"], config["num_hidden_layers"]
    config |= {"num_hidden_layers": args.layers, "intermediate_size": args.intermediate}
    (args.target / "config.json").write_text(json.dumps(config, indent=2))

    tensors = {}
    for name, tensor in deserialize((args.source / "model.safetensors").read_bytes()):
        assert tensor["dtype"] == "BF16", f"{name} is {tensor['dtype']}"
        tensors[name] = np.frombuffer(tensor["data"], dtype=np.uint16).reshape(tensor["shape"])

    dice = np.random.default_rng(1)
    first = {name: tensor for name, tensor in tensors.items() if name.startswith("model.layers.0.")}
    for layer in range(args.layers):
        for name, like in first.items():
            name = name.replace(".0.", f".{layer}.", 1)
            if layer >= own:
                silent = name.endswith(("o_proj.weight", "down_proj.weight"))
                random = matrix(*like.shape, dice) if like.ndim == 2 else like
                tensors[name] = np.zeros_like(like) if silent else random
            if name.endswith(("gate_proj.weight", "up_proj.weight")):
                tensors[name] = widened(tensors[name], args.intermediate, hidden)
            elif name.endswith("down_proj.weight"):
                tensors[name] = widened(tensors[name], hidden, args.intermediate)
    write(args.target / "model.safetensors", tensors)


if __name__ == "__main__":
    main()
