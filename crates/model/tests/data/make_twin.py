#!/usr/bin/env python3
"""Writes FILE.gguf.twin: the bytes of a GGUF file, as pieces of its own and pieces copied from model.safetensors beside it.

Usage: make_twin.py FILE.gguf     tests/twins/mod.rs reads it.
"""
import os, struct, sys

PIECE = 32  # the shortest copy, in bytes
path = sys.argv[1]
file = open(path, "rb").read()
source = open(os.path.join(os.path.dirname(path), "model.safetensors"), "rb").read()
# After the file, its numbers in bfloat16 as f32.
source += b"".join(b"\0\0" + source[at:at + 2] for at in range(0, len(source), 2))
places = {}
for at in range(0, len(source) - PIECE + 1, 4):
    places.setdefault(source[at:at + PIECE], at)

hash = 0xCBF29CE484222325  # FNV-1a in 64 bits
for byte in file:
    hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
twin, own, at = struct.pack("<QQ", len(file), hash), bytearray(), 0
while at < len(file):
    start = places.get(file[at:at + PIECE])
    if start is None:
        own.append(file[at])
        at += 1
        continue
    length = PIECE
    while at + length < len(file) and start + length < len(source) and file[at + length] == source[start + length]:
        length += 1
    twin += struct.pack("<I", len(own)) + own + struct.pack("<II", start, length)
    own, at = bytearray(), at + length
twin += struct.pack("<I", len(own)) + own + struct.pack("<II", 0, 0)
open(path + ".twin", "wb").write(twin)
print(f"{len(file)} bytes as {len(twin)}")
