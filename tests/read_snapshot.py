#!/usr/bin/env python3
"""Reads a snapshot by snapshot/FORMAT.md alone, with the standard library: prints as JSON what is in it.

    tests/read_snapshot.py FILE [TENSOR]    the digest is verified; of TENSOR, a vector or a matrix, row 0 is decoded to numbers
"""

import hashlib
import json
import math
import struct
import sys

PAGE = 4096
# dtype: columns of a chunk, its header in a tile, bytes of the chunk in one row, where in these the numbers are, what they are flipped by
CHUNKS = {
    "bf16": (2, 0, 4, [(0, 4)], 0),
    "q8_0": (64, 64, 68, [(2, 34), (36, 68)], 0x80),
    "q4_1": (32, 64, 20, [(4, 20)], 0),
}
# Of the halves in a tile's header: where they are in a row's part.
HALVES = {"bf16": [], "q8_0": [0, 34], "q4_1": [0, 2]}


def word(page, at):
    (length,) = struct.unpack_from("<H", page, at)
    return page[at + 2:at + 2 + length].decode()


def header(page):
    if page[:8] != b"\x89PLT\r\n\x1a\n":
        raise SystemExit("no snapshot")
    version, required, chunk = struct.unpack_from("<H2xI4xI", page, 8)
    if version != 1 or required:
        raise SystemExit(f"version {version}, required flags {required:#x}")
    (file_bytes,) = struct.unpack_from("<Q", page, 24)
    region = lambda at: struct.unpack_from("<QQ", page, at)
    return {
        "file_bytes": file_bytes, "chunk_bytes": chunk, "table": region(32), "checksums": region(56), "weights": region(80),
        "digest": page[96:128].hex(), "model": word(page, 256), "target": word(page, 512), "weights_word": word(page, 576),
    }


def digest(data):
    page = bytearray(data[:PAGE])
    page[96:128] = bytes(32)
    page[4088:] = bytes(8)
    return hashlib.sha256(data[PAGE:] + page).hexdigest()


def row(data, tensor):
    """Row 0 as its dtype has it."""
    columns, dtype = tensor["shape"][-1], tensor["dtype"]
    start = tensor["offset"]
    if tensor["layout"] == "row-major":
        size = tensor["bytes"] // max(1, math.prod(tensor["shape"][:-1]))
        return data[start:start + size]
    width, head, part_bytes, pieces, flipped = CHUNKS[dtype]
    out = bytearray()
    for _ in range(columns // width):
        part = bytearray(part_bytes)
        for i, at in enumerate(at for first, end in pieces for at in range(first, end)):
            part[at] = data[start + head + i // 4 * 64 + i % 4] ^ flipped
        for i, at in enumerate(HALVES[dtype]):
            part[at:at + 2] = data[start + 32 * i:start + 32 * i + 2]
        out += part
        start += head + 64 * (sum(end - first for first, end in pieces) // 4)
    return bytes(out)


def numbers(dtype, row):
    if dtype == "f32":
        return list(struct.unpack(f"<{len(row) // 4}f", row))
    if dtype == "f16":
        return list(struct.unpack(f"<{len(row) // 2}e", row))
    if dtype == "bf16":
        return [struct.unpack("<f", b"\0\0" + row[i:i + 2])[0] for i in range(0, len(row), 2)]
    if dtype == "q8_0":
        blocks = [(struct.unpack_from("<e", row, i)[0], row[i + 2:i + 34]) for i in range(0, len(row), 34)]
        return [d * (q - 256 if q > 127 else q) for d, block in blocks for q in block]
    if dtype == "q4_1":
        blocks = [(struct.unpack_from("<ee", row, i), row[i + 4:i + 20]) for i in range(0, len(row), 20)]
        return [d * q + m for (d, m), block in blocks for q in [b & 15 for b in block] + [b >> 4 for b in block]]
    raise SystemExit(f"dtype {dtype} is not decoded here")


def main():
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    facts = header(data[:PAGE])
    if len(data) != facts["file_bytes"] or digest(data) != facts["digest"]:
        raise SystemExit("the digest does not fit")
    at, length = facts["table"]
    table = json.loads(data[at:at + length])
    facts["sections"] = {s["name"]: hashlib.sha256(data[s["offset"]:s["offset"] + s["bytes"]]).hexdigest() for s in table["sections"]}
    facts["tensors"] = table["arenas"][0]["tensors"]
    for tensor in facts["tensors"]:
        if len(sys.argv) > 2 and tensor["name"] == sys.argv[2]:
            facts["row"] = numbers(tensor["dtype"], row(data, tensor))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
