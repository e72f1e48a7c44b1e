"""Writes formats.json: random blocks of every GGUF format that is only read, and what the `gguf` package makes of them.

Usage: make_formats.py   (needs the packages gguf and numpy)
"""

import json
import pathlib

import gguf
import numpy as np

FORMATS = ["Q5_0", "Q5_1", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
# Where the 16-bit scales stand in a block: random bytes there could be no number.
SCALES = {"Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
BLOCKS = {"Q5_0": 4, "Q5_1": 4, "IQ4_NL": 4}


def main():
    random = np.random.default_rng(7)
    found = {}
    for name in FORMATS:
        kind = getattr(gguf.GGMLQuantizationType, name)
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (BLOCKS.get(name, 2), size), dtype=np.uint8)
        for at in SCALES[name]:
            scales = random.uniform(-0.3, 0.3, len(blocks)).astype(np.float16)
            blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        values = gguf.quants.dequantize(blocks.reshape(1, -1), kind).reshape(-1)
        assert len(values) == elements * len(blocks)
        found[name.lower()] = {"bytes": blocks.tobytes().hex(), "values": [float(f"{x:.7g}") for x in values]}
    out = pathlib.Path(__file__).with_name("formats.json")
    out.write_text(json.dumps(found) + "\n")


main()
