#!/usr/bin/env python3
"""Writes models of real shapes with random weights, for benches: bf16, and from it Q8_0 and Q4_K_M by llama.cpp's llama-quantize.

    benches/random_models.py FOLDER [--shape 153M] [--shape 1B]

153M  Llama: 12 layers, width 768, feed-forward 3072, 12 heads over 4, vocabulary 32,000 (Llama 2's), head of its own
1B    Llama-3.2-1B's: 16 layers, width 2048, feed-forward 8192, 32 heads over 8, vocabulary 128,256, head tied

Vocabularies are real, out of what scripts/test-models fetches; benches/peers.sh builds llama-quantize. What is there already is
left alone. Uses the standard library alone.
"""

import argparse
import pathlib
import random
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHAPES = {
    "153M": dict(vocabulary="llama-spm", layers=12, width=768, inner=3072, heads=12, kv_heads=4, head_dim=64, tied=False, theta=1e4),
    "1B": dict(vocabulary="llama-bpe", layers=16, width=2048, inner=8192, heads=32, kv_heads=8, head_dim=64, tied=True, theta=5e5),
}
QUANTISED = ("Q8_0", "Q4_K_M")
ALIGNMENT = 32
F32, BF16 = 0, 30
U32, FLOAT, STRING, ARRAY = 4, 6, 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class Vocabulary:
    """The metadata of a file without tensors, as bytes, but for those keys that `without` names."""

    def __init__(self, path, without):
        self.bytes, self.at = path.read_bytes(), 8
        _tensors, entries = self.take("<QQ")
        kept = []
        for _ in range(entries):
            start = self.at
            key = self.string()
            (kind,) = self.take("<I")
            size = self.skip(kind)
            if key == b"tokenizer.ggml.tokens":
                self.tokens = size
            if not any(key.startswith(part) for part in without):
                kept.append(self.bytes[start:self.at])
        self.entries, self.kept = len(kept), b"".join(kept)

    def take(self, layout):
        values = struct.unpack_from(layout, self.bytes, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self):
        (length,) = self.take("<Q")
        self.at += length
        return self.bytes[self.at - length:self.at]

    def skip(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            inner, count = self.take("<IQ")
            for _ in range(count):
                self.skip(inner)
            return count
        else:
            self.at += SIZES[kind]
        return 1


def text(word):
    return struct.pack("<Q", len(word)) + word.encode()


def entry(key, value):
    if isinstance(value, str):
        return text(key) + struct.pack("<I", STRING) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", FLOAT, value)
    return text(key) + struct.pack("<II", U32, value)


def tensors(shape, tokens):
    """Name, shape (rows last, as the file has it), type."""
    width, inner = shape["width"], shape["inner"]
    q, kv = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    yield "token_embd.weight", (width, tokens), BF16
    for layer in range(shape["layers"]):
        for part, size in (
            ("attn_norm", (width,)), ("attn_q", (width, q)), ("attn_k", (width, kv)), ("attn_v", (width, kv)),
            ("attn_output", (q, width)), ("ffn_norm", (width,)), ("ffn_gate", (width, inner)), ("ffn_up", (width, inner)),
            ("ffn_down", (inner, width)),
        ):
            yield f"blk.{layer}.{part}.weight", size, F32 if len(size) == 1 else BF16
    yield "output_norm.weight", (width,), F32
    if not shape["tied"]:
        yield "output.weight", (width, tokens), BF16


def noise(elements, seed=11):
    """Bell-shaped, small, as bfloat16."""
    source = random.Random(seed)
    singles = struct.pack(f"<{elements}f", *(source.gauss(0, 0.03) for _ in range(elements)))
    return b"".join(singles[i + 2:i + 4] for i in range(0, len(singles), 4))


def write(path, shape):
    vocabulary = Vocabulary(vocabularies() / f"ggml-vocab-{shape['vocabulary']}.gguf", (b"general.", b"llama."))
    meta = {
        "general.architecture": "llama", "general.name": path.stem, "general.file_type": 32, "llama.context_length": 8192,
        "llama.block_count": shape["layers"], "llama.embedding_length": shape["width"], "llama.feed_forward_length": shape["inner"],
        "llama.attention.head_count": shape["heads"], "llama.attention.head_count_kv": shape["kv_heads"],
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": shape["theta"],
        "llama.rope.dimension_count": shape["head_dim"], "llama.vocab_size": vocabulary.tokens,
    }
    listed = list(tensors(shape, vocabulary.tokens))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(listed), vocabulary.entries + len(meta))
    head += vocabulary.kept + b"".join(entry(key, value) for key, value in meta.items())
    offset, sizes = 0, []
    for name, size, kind in listed:
        elements = 1
        for extent in size:
            elements *= extent
        head += text(name) + struct.pack(f"<I{len(size)}QIQ", len(size), *size, kind, offset)
        sizes.append((kind, elements))
        offset += -(-elements * (4 if kind == F32 else 2) // ALIGNMENT) * ALIGNMENT
    pool = memoryview(noise(1 << 20) * 2)
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        out.write(head + bytes(-len(head) % ALIGNMENT))
        for number, (kind, elements) in enumerate(sizes):
            if kind == F32:
                out.write(struct.pack("<f", 1.0) * elements)
            else:
                left, start = elements * 2, number * 4099 * 2 % (1 << 21)
                while left:
                    piece = pool[start:start + min(left, 1 << 21)]
                    out.write(piece)
                    left -= len(piece)
            out.write(bytes(-out.tell() % ALIGNMENT))
    part.rename(path)


def vocabularies():
    listed = subprocess.run([ROOT / "scripts/test-models"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return pathlib.Path(listed.splitlines()[-1]) / "llama.cpp/models"


def make(folder, name):
    """The files of one shape: bf16 first."""
    folder.mkdir(parents=True, exist_ok=True)
    full = folder / f"{name}.bf16.gguf"
    if not full.exists():
        write(full, SHAPES[name])
    files = [full]
    for kind in QUANTISED:
        out = folder / f"{name}.{kind}.gguf"
        if not out.exists():
            server = subprocess.run(["sh", ROOT / "benches/peers.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout
            tool = pathlib.Path(server.splitlines()[-1]).with_name("llama-quantize")
            part = out.with_suffix(".part")
            subprocess.run([tool, full, part, kind], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            part.rename(out)
        files.append(out)
    return files


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--shape", action="append", choices=list(SHAPES))
    arguments = arguments.parse_args()
    for name in arguments.shape or SHAPES:
        print(*make(arguments.folder, name), sep="\n")


if __name__ == "__main__":
    main()
