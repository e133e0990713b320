"""Makes encoded.safetensors: seeded numbers, and the bytes that other programs encode them to.

Floats by the Python package gguf; block formats by it where it writes them, and by ggml_quantize_chunk of llama.cpp's libggml-base,
with and without an importance matrix. Where both write a format, they must agree.

    python make_encoded.py LIBGGML_BASE.so OUT.safetensors [ROWS [SEED]]
"""

import ctypes
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from safetensors.numpy import save_file

library, out = ctypes.CDLL(sys.argv[1]), sys.argv[2]
rows, seed = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((3, 2), (4, 7)))
COLS = 2048
chunk = library.ggml_quantize_chunk
chunk.restype = ctypes.c_size_t
chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]

rng = np.random.default_rng(seed)
x = rng.standard_normal((rows, COLS)).astype(np.float32)
KINDS = [
    lambda b: b,
    lambda b: b * np.float32(0.02),
    np.zeros_like,
    np.abs,
    lambda b: -np.abs(b),
    lambda b: np.where(np.arange(256) % 37 == 0, b * 40, b),
    lambda b: b * 0 + np.float32(0.5),
    lambda b: np.round(b * 4) / 4,
    lambda b: b * np.float32(1e-12),
    lambda b: b * 300,
    lambda b: np.where((np.arange(256) >= 32) & (np.arange(256) < 64), 0, np.where(np.arange(256) >= 100, -1, b)),
    lambda b: (np.arange(256) - 128) / np.float32(16),
    lambda b: rng.standard_t(2, 256),
    lambda b: b * np.float32(1e-7),
    lambda b: rng.uniform(-1, 3, 256),
    lambda b: b,
]
for i, block in enumerate(x.reshape(-1, 256)):
    block[:] = KINDS[i % len(KINDS)](block)
importance = (rng.standard_normal(COLS) ** 2 + 1e-3).astype(np.float32)
importance[5::64] *= 100


def encoded(name, weights):
    kind = Type[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    bytes_ = np.zeros(x.size // elements * size, np.uint8)
    pointer = None if weights is None else weights.ctypes.data
    assert chunk(int(kind), x.ctypes.data, bytes_.ctypes.data, 0, rows, COLS, pointer) == bytes_.size
    return bytes_


tensors = {"input": x, "importance": importance}
both = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
one = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
for name in ["F16", "BF16"]:
    tensors[name] = np.ascontiguousarray(quantize(x, Type[name])).view(np.uint8).reshape(-1)
for name in both + one:
    tensors[name] = encoded(name, None)
for name in both:
    assert np.array_equal(quantize(x, Type[name]).reshape(-1), tensors[name]), name
for name in both[:4] + one:
    tensors[f"{name}.importance"] = encoded(name, importance)
save_file(tensors, out)
