#!/usr/bin/env python3
"""Writes CASE.importance.safetensors for each case: sums of squares of what each weight is multiplied with, by transformers in f32 on the CPU,
and how many rows that were, by the names of a GGUF file.

Usage: make_importance.py ../../../model/tests/data/oracle [CASE...]     Needs torch, transformers and safetensors.
"""
import collections, importlib.util, os, sys
import torch
from safetensors.torch import save_file

oracle = sys.argv[1]
cases = sys.argv[2:] or ["llama-gqa", "deepseek-v2-lite-shape", "deepseek-v3-shape"]
spec = importlib.util.spec_from_file_location("make_oracle", f"{oracle}/../make_oracle.py")
make_oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_oracle)

NAMES = {
    "self_attn.q_proj": ["attn_q"], "self_attn.k_proj": ["attn_k"], "self_attn.v_proj": ["attn_v"], "self_attn.o_proj": ["attn_output"],
    "self_attn.q_a_proj": ["attn_q_a"], "self_attn.q_b_proj": ["attn_q_b"], "self_attn.kv_a_proj_with_mqa": ["attn_kv_a_mqa"],
    "self_attn.kv_b_proj": ["attn_v_b"], "mlp.gate_proj": ["ffn_gate"], "mlp.up_proj": ["ffn_up"], "mlp.down_proj": ["ffn_down"],
    "mlp.experts.gate_up_proj": ["ffn_gate_exps", "ffn_up_exps"], "mlp.experts.down_proj": ["ffn_down_exps"], "mlp.gate": ["ffn_gate_inp"],
    "mlp.shared_experts.gate_proj": ["ffn_gate_shexp"], "mlp.shared_experts.up_proj": ["ffn_up_shexp"],
    "mlp.shared_experts.down_proj": ["ffn_down_shexp"],
}


def gguf_names(name):
    name = name.removesuffix(".weight")
    if name in ("lm_head", "model.embed_tokens"):
        return ["output.weight" if name == "lm_head" else "token_embd.weight"]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    return [f"blk.{layer}.{part}.weight" for part in NAMES[rest]]


for case in cases:
    model = make_oracle.load(f"{oracle}/{case}", torch.float32)
    places = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 3:
            places |= {parameter[e].data_ptr(): (name, e, parameter.shape[0]) for e in range(parameter.shape[0])}
        elif parameter.dim() == 2:
            places[parameter.data_ptr()] = (name, 0, 1)
    sums, counts = {}, collections.defaultdict(int)
    linear = torch.nn.functional.linear

    def observed(x, weight, bias=None):
        name, matrix, matrices = places[weight.data_ptr()]
        squares = x.reshape(-1, x.shape[-1]).double().pow(2)
        for gguf in gguf_names(name):
            if gguf not in sums:
                sums[gguf] = torch.zeros(matrices, x.shape[-1], dtype=torch.float64)
            sums[gguf][matrix] += squares.sum(0)
            counts[gguf, matrix] += squares.shape[0]
        return linear(x, weight, bias)

    torch.nn.functional.linear = observed
    vocabulary = model.config.vocab_size
    for start in (3, 11):
        ids = [(start + 7 * i * i + i) % vocabulary for i in range(24)]
        with torch.no_grad():
            model(torch.tensor([ids]))
    torch.nn.functional.linear = linear
    out = {}
    for name, sum in sums.items():
        out[f"{name}.in_sum2"] = sum.float()
        out[f"{name}.counts"] = torch.tensor([[float(counts[name, m])] for m in range(sum.shape[0])])
    save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{case}.importance.safetensors"))
    print(case, len(sums))
