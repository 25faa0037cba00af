"""Figures of a GPU, for kernels/gpu-check: the server against transformers on the same random weights.

Models are made here, on the machine: Llama's shapes with random bf16 weights and the demo's tokenizer. Each figure is a
row of the table; what fails is a row too, and the next one is tried.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import gpu_check_http

SHAPES = {
    "1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
               num_key_value_heads=8, head_dim=64, vocab_size=128256),
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=8, head_dim=128, vocab_size=128256),
}
SERVER, TABLE = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path("/tmp/switchback-gpu-check")
row = gpu_check_http.rows_of(TABLE)


def config_of(name):
    return LlamaConfig(**SHAPES[name], max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False,
                       torch_dtype="bfloat16", architectures=["LlamaForCausalLM"], bos_token_id=0, eos_token_id=0)


def left():
    """Seconds until all must be over."""
    return float(os.environ["GPU_CHECK_UNTIL"]) - time.time()


def make(name, seed=7):
    """A model's folder, if it is not there yet."""
    folder = WORK / f"{name}-{seed}"
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(name)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in LlamaForCausalLM(config).state_dict().items()}
    torch.manual_seed(seed)
    tensors = {}
    for key, shape in shapes.items():
        if key.endswith("norm.weight"):
            value = 1.0 + 0.1 * torch.randn(shape, device="cuda")
        else:
            value = torch.randn(shape, device="cuda") * (shape[-1] ** -0.5)
        tensors[key] = value.to(torch.bfloat16).cpu().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pathlib.Path("models/v1") / file, folder / file)
    return folder


def throughput(folder, prompt, output, batch, *more):
    command = [SERVER, "bench", "throughput", "--model", str(folder), "--device", "cuda:0", *more,
               "--prompt", str(prompt), "--output", str(output), "--batch", batch, "--runs", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(left(), 1), check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-300:])
    return json.loads(done.stdout)


def matmul_peak():
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(10):
        a @ b
    torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - begun)


def decode_figures():
    folder = make("8b")
    at_1 = throughput(folder, 64, 64, "1")
    figures = at_1["batch"]["1"]
    row("8B decode, batch 1", f"{figures['ms_per_step']:.2f} ms a token, {100 * figures['roofline_share']:.0f} % of the "
        f"roofline at {at_1['memory_bytes_per_s'] / 1e12:.2f} TB/s")
    many = throughput(folder, 1024, 128, "8,32,64")
    for batch, figures in many["batch"].items():
        row(f"8B decode, batch {batch}, 1k context", f"{figures['decode_tok_s']:.0f} tok/s, "
            f"{figures['ms_per_step']:.2f} ms a step, weights alone {100 * figures['roofline_share']:.0f} % of the roofline")
    prefill = throughput(folder, 2048, 2, "1")["batch"]["1"]
    # of a token: the matrices of all layers, and attention to half of the prompt on average
    shape = SHAPES["8b"]
    hidden, layers, kv = shape["hidden_size"], shape["num_hidden_layers"], shape["num_key_value_heads"] * shape["head_dim"]
    matrices = 2 * layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * shape["intermediate_size"])
    flops = (matrices + 4 * layers * hidden * 1024) * prefill["prefill_tok_s"]
    row("8B prefill, 2k tokens", f"{2048 / prefill['prefill_tok_s']:.3f} s to the first token, {flops / 1e12:.0f} TFLOP/s, "
        f"{100 * flops / matmul_peak():.0f} % of the matmul peak")


def quantised_figures():
    """Decode of the 8B shape quantised: each batch size reads the weights once, as long as it takes the blocks themselves."""
    for quantize in ("q8_0", "q4_k_m"):
        figures = throughput(make("8b"), 64, 64, "1,8,32", "--quantize", quantize)
        batches = [f"{batch}: {at['ms_per_step']:.2f} ms a step, {100 * at['roofline_share']:.0f} % of the roofline"
                   for batch, at in figures["batch"].items()]
        row(f"8B {quantize} decode by batch, {figures['weights_bytes'] / 1e9:.1f} GB of weights", "; ".join(batches))


def adapter_figures():
    """Decode of the 8B shape through eight adapters of rank 16, beside decode through none in the same run."""
    plain = throughput(make("8b"), 64, 64, "8,32")["batch"]
    adapted = throughput(make("8b"), 64, 64, "8,32", "--adapters", "8", "--rank", "16")["batch"]
    batches = [f"{batch}: {at['ms_per_step']:.2f} ms a step for {plain[batch]['ms_per_step']:.2f} ms without"
               for batch, at in adapted.items()]
    row("8B decode by batch, eight adapters of rank 16 on all projections", "; ".join(batches))


def compare_with_transformers():
    """Log-probabilities of a prompt's tokens, ours over HTTP and transformers' in bf16 and in f32."""
    folder = make("1b")
    tokens = [(i * 7919 + 13) % 1000 for i in range(200)]
    body = {"model": "m", "prompt": tokens, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    with gpu_check_http.Server(SERVER, "cuda:0", [folder], 64):
        status, answer = gpu_check_http.ask("POST", gpu_check_http.PUBLIC, "/v1/completions", body)
    if status != 200:
        raise RuntimeError(f"{status} {answer}")
    ours = torch.tensor(answer["choices"][0]["logprobs"]["token_logprobs"][1:200])
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).cuda().eval()
        with torch.no_grad():
            logits = model(torch.tensor([tokens], device="cuda")).logits[0].float().log_softmax(-1).cpu()
        found[dtype] = torch.tensor([logits[i, tokens[i + 1]] for i in range(199)])
        del model
        torch.cuda.empty_cache()
    exact, theirs = found[torch.float32], found[torch.bfloat16]
    row("1B in bf16 against transformers in f32, log-probabilities",
        f"mean difference {(ours - exact).abs().mean():.4f}, largest {(ours - exact).abs().max():.4f}; transformers in bf16: "
        f"{(theirs - exact).abs().mean():.4f}, {(theirs - exact).abs().max():.4f}")


def transformers_decode():
    model = LlamaForCausalLM.from_pretrained(make("8b"), dtype=torch.bfloat16).cuda().eval()
    model.generation_config.cache_implementation = "static"
    # generate() compiles decode by itself for a static cache
    prompt = torch.randint(0, 1000, (1, 64), device="cuda")

    def seconds(tokens):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    seconds(8), seconds(72)
    row("8B decode, batch 1, transformers with torch.compile and a static cache",
        f"{1e3 * (seconds(72) - seconds(8)) / 64:.2f} ms a token")


def host_to_device():
    """Bytes a second of a large copy from pinned memory."""
    host, device = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True), torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    device.copy_(host)
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(4):
        device.copy_(host, non_blocking=True)
    torch.cuda.synchronize()
    return 4 * (1 << 30) / (time.perf_counter() - begun)


def served():
    bus = host_to_device()
    torch.cuda.empty_cache()
    gpu_check_http.figures(row, SERVER, "cuda:0", [make("8b"), make("8b", seed=8)], 6, [1, 8, 32, 64, 256], bus)


if __name__ == "__main__":
    for figure in (decode_figures, served, compare_with_transformers, quantised_figures, adapter_figures, transformers_decode):
        if left() < 20:
            row(figure.__name__, "left out: no time")
            continue
        try:
            figure()
        except Exception as error:  # a figure that fails is a row, and the others are still wanted
            row(figure.__name__, f"FAILED: {type(error).__name__}: {str(error)[-300:]}".replace("\n", " ").replace("|", " "))
