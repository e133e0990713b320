#!/usr/bin/env python3
"""Writes DIRECTORY/oracle.safetensors: what transformers computes for a checkpoint's prompts, in f32 on the CPU.

Usage: make_oracle.py DIRECTORY...     The prompts are those of the file that is replaced. Needs torch, transformers and safetensors.
"""
import json, os, re, sys, tempfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

CLASSES = {"kimi_k2": "deepseek_v3"}  # Kimi K2 has no class of its own.


def positions(length):
    """Logits are kept of all positions of a short prompt, of some of a longer one."""
    return [p for p in range(length) if length < 10 or p % (5 if length <= 100 else 13) == 0 or p == length - 1]


def load(directory, dtype):
    """The model; f8 weights are decoded, with one scale for each block of 128 x 128."""
    config = json.load(open(f"{directory}/config.json"))
    config["model_type"] = CLASSES.get(config["model_type"], config["model_type"])
    config.pop("quantization_config", None)
    config.setdefault("pad_token_id", None)
    tensors = load_file(f"{directory}/model.safetensors")
    for name in [n for n in tensors if n.endswith("_scale_inv")]:
        scale = tensors.pop(name).repeat_interleave(128, 0).repeat_interleave(128, 1)
        weight = tensors[name.removesuffix("_scale_inv")].float()
        tensors[name.removesuffix("_scale_inv")] = weight * scale[: weight.shape[0], : weight.shape[1]]
    with tempfile.TemporaryDirectory() as place:
        json.dump(config, open(f"{place}/config.json", "w"))
        save_file({n: t.to(dtype) for n, t in tensors.items()}, f"{place}/model.safetensors", metadata={"format": "pt"})
        return AutoModelForCausalLM.from_pretrained(place, dtype=dtype, attn_implementation="eager", experts_implementation="eager").eval()


@torch.no_grad()
def outputs(model, ids, steps):
    """Logits and hidden states of a prompt, experts of each mixture in ascending order, and the greedy continuation."""
    hidden, experts, handles = {}, {}, []
    for name, module in model.named_modules():
        layer = int((re.search(r"layers\.(\d+)", name) or [0, -1])[1])
        if re.fullmatch(r"model\.layers\.\d+", name):
            keep = lambda m, a, out, i=layer: hidden.update({i: (out[0] if isinstance(out, tuple) else out)[0]})
        elif re.search(r"Top[kK]Router$", type(module).__name__):
            keep = lambda m, a, out, i=layer: experts.update({i: (out[2], out[1])})
        else:
            continue
        handles.append(module.register_forward_hook(keep))
    first = model(input_ids=ids[None], use_cache=True)
    [handle.remove() for handle in handles]
    order = {i: chosen.argsort(-1) for i, (chosen, _) in experts.items()}
    experts = {i: tuple(t.gather(1, order[i]) for t in pair) for i, pair in experts.items()}
    greedy, rows, out = [], [], first
    for _ in range(steps):
        rows.append(out.logits[0, -1])
        greedy.append(int(rows[-1].argmax()))
        out = model(input_ids=torch.tensor([greedy[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    return first.logits[0], hidden, experts, greedy, rows


def oracle(directory):
    torch.manual_seed(0)
    model, double = load(directory, torch.float32), load(directory, torch.float64)
    old, new = load_file(f"{directory}/oracle.safetensors"), {}
    for p in [n.removesuffix("input_ids") for n in old if n.endswith("input_ids")]:
        ids, steps = old[p + "input_ids"], len(old[p + "greedy"])
        logits, hidden, experts, greedy, rows = outputs(model, ids.long(), steps)
        # No choice may hang on rounding: double precision chooses alike.
        exact = outputs(double, ids.long(), steps)
        noise = (logits - exact[0]).abs().max().item()
        print(f"{directory} {p} differs from double precision by {noise:.1e}")
        assert noise < 2e-4 and greedy == exact[3] and all(torch.equal(e[0], exact[2][i][0]) for i, e in experts.items())
        at = positions(len(ids))
        new |= {p + "input_ids": ids, p + "greedy": torch.tensor(greedy).int(), p + "logits": logits[at].clone()}
        new |= {p + "logit_positions": torch.tensor(at).int()}
        new |= {p + "greedy_logits_first8": torch.stack(rows[:8])}
        if p + "hidden.0" in old:
            new |= {f"{p}hidden.{i}": h.contiguous() for i, h in hidden.items()}
        for i, (chosen, weights) in experts.items():
            new |= {f"{p}moe.{i}.experts": chosen.int(), f"{p}moe.{i}.weights": weights.float()}
    save_file(new, f"{directory}/oracle.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    [oracle(directory.rstrip("/")) for directory in sys.argv[1:]]
