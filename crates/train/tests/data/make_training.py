#!/usr/bin/env python3
"""Writes DIRECTORY/NAME.safetensors for each checkpoint: what torch and transformers make of six steps of training, in f32 on the CPU.

Usage: make_training.py DIRECTORY CHECKPOINT...     Needs torch, transformers and safetensors.
Of each gradient of the first step (before clipping) 64 numbers are kept, at even distances, with the largest magnitude and the norm.
"""
import json, os, sys, tempfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


def load(directory):
    config = json.load(open(f"{directory}/config.json"))
    config.setdefault("pad_token_id", None)
    tensors = {n: t.float() for n, t in load_file(f"{directory}/model.safetensors").items()}
    with tempfile.TemporaryDirectory() as place:
        json.dump(config, open(f"{place}/config.json", "w"))
        save_file(tensors, f"{place}/model.safetensors", metadata={"format": "pt"})
        options = dict(dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
        return AutoModelForCausalLM.from_pretrained(place, **options).train(), config


def published(name, gradient):
    """Experts lie in one tensor in transformers, in one each in checkpoints."""
    if name.endswith("experts.gate_up_proj"):
        for e, both in enumerate(gradient):
            for part, g in zip(["gate_proj", "up_proj"], both.chunk(2)):
                yield name.replace("gate_up_proj", f"{e}.{part}.weight"), g
    elif name.endswith("experts.down_proj"):
        for e, g in enumerate(gradient):
            yield name.replace("down_proj", f"{e}.down_proj.weight"), g
    else:
        yield name, gradient


out = sys.argv[1]
for directory in sys.argv[2:]:
    model, config = load(directory)
    ids = torch.randint(0, config["vocab_size"], (2, 48), generator=torch.Generator().manual_seed(48))
    labels = ids.clone()
    labels[0, :10] = -100
    labels[1, 40:] = -100
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    losses, norms, kept = [], [], {}
    for step in range(6):
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, parameter in model.named_parameters():
                if parameter.grad is None:
                    continue
                for name, g in published(name, parameter.grad):
                    flat = g.reshape(-1)
                    picked = flat[torch.arange(64) * len(flat) // 64]
                    kept[name] = torch.cat([flat.abs().max()[None], flat.norm()[None], picked]).clone()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    name = os.path.basename(directory.rstrip("/"))
    kept |= {"input_ids": ids.int(), "labels": labels.int(), "losses": torch.tensor(losses), "norms": torch.tensor(norms)}
    save_file(kept, f"{out}/{name}.safetensors")
    print(name, losses, norms)
