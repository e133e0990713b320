#!/usr/bin/env python3
"""Writes written.safetensors: logits of transformers and llama.cpp for what the trainer wrote, in f32 on the CPU.

Usage: make_written.py transformers DIRECTORY     (torch, transformers, safetensors)
       make_written.py llama.cpp DIRECTORY        (llama-cpp-python, safetensors)
DIRECTORY has a folder for each model: `WRITTEN=DIRECTORY cargo test -p farthing-train --test written`.
The two may run in different environments; each adds to the file. Every tenth logit is kept.
"""
import glob, os, sys
import numpy as np
from safetensors.numpy import load_file, save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "written.safetensors")
IDS = np.array([(11 + 7 * i * i + 3 * i) % 390 for i in range(40)], dtype=np.int32)


def transformers(directory):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    print(" ", type(model).__name__)
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS[None].astype(np.int64))).logits[0].numpy()


def llama_cpp(file):
    import llama_cpp

    model = llama_cpp.Llama(file, n_ctx=64, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0, flash_attn=False)
    model.eval(IDS.tolist())
    return np.array(model.scores[: len(IDS)], dtype=np.float32)


software, directory = sys.argv[1:]
tensors = load_file(HERE) if os.path.exists(HERE) else {}
for folder in sorted(glob.glob(f"{directory}/*/")):
    name = os.path.basename(folder[:-1])
    print(name)
    logits = transformers(folder + "model") if software == "transformers" else llama_cpp(folder + "model.gguf")
    tensors[f"{name}.ids"] = IDS
    tensors[f"{name}.{software}"] = np.ascontiguousarray(logits.reshape(-1)[::10])
    print(" ", np.abs(logits).max())
save_file(tensors, HERE)
