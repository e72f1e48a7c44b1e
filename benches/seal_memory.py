#!/usr/bin/env python3
"""How much memory sealing takes, whatever the model's size: a sparse model of --gb gigabytes is sealed, and the process watched.

    benches/seal_memory.py --folder WITH_ROOM [--gb 20] [--weights native]

The model has Llama's shape, bfloat16, all zeros, in a file without blocks; its tokenizer and configuration are those of
tests/golden/llama3-tiny. Both files lie in a folder in --folder, which needs room for the snapshot, and are gone afterwards. What counts is
the process's own memory (anonymous, sampled): pages of the mapped input are the page cache's, and are shown beside it.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HIDDEN, INNER = 4096, 14336


def shapes(layers):
    yield "model.embed_tokens.weight", [800, HIDDEN]
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for part, shape in [
            ("input_layernorm", [HIDDEN]), ("post_attention_layernorm", [HIDDEN]),
            ("self_attn.q_proj", [HIDDEN, HIDDEN]), ("self_attn.k_proj", [HIDDEN // 4, HIDDEN]), ("self_attn.v_proj", [HIDDEN // 4, HIDDEN]),
            ("self_attn.o_proj", [HIDDEN, HIDDEN]), ("mlp.gate_proj", [INNER, HIDDEN]), ("mlp.up_proj", [INNER, HIDDEN]),
            ("mlp.down_proj", [HIDDEN, INNER]),
        ]:
            yield f"{at}{part}.weight", shape
    yield "model.norm.weight", [HIDDEN]
    yield "lm_head.weight", [800, HIDDEN]


def model(folder, golden, gigabytes):
    layer = sum(HIDDEN * HIDDEN * k for k in (2, 0.5)) + 3 * INNER * HIDDEN + 2 * HIDDEN
    layers = max(1, round(gigabytes * 1e9 / 2 / layer))
    config = json.loads((golden / "config.json").read_text())
    config.update({
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
    })
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(golden / name, folder)
    header, at = {}, 0
    for name, shape in shapes(layers):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return at


def memory(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssFile"))}


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilotlight", default=str(root / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--gb", type=float, default=20)
    parser.add_argument("--weights", default="native")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = pathlib.Path(folder)
        (folder / "model").mkdir()
        size = model(folder / "model", root / "tests/golden/llama3-tiny", options.gb)
        out = folder / "out.snapshot"
        begun = time.monotonic()
        command = [options.pilotlight, "seal", str(folder / "model"), "-o", str(out), "--weights", options.weights]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        most = {"RssAnon": 0, "RssFile": 0}
        while process.poll() is None:
            try:
                for name, value in memory(process.pid).items():
                    most[name] = max(most[name], value)
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(0.02)
        said = process.stderr.read().decode()
        if process.wait() != 0:
            sys.exit(said)
        print(json.dumps({
            "model_gb": size / 1e9, "snapshot_gb": out.stat().st_size / 1e9, "seconds": time.monotonic() - begun,
            "own_memory_most_mb": most["RssAnon"] / 1e6, "mapped_input_most_mb": most["RssFile"] / 1e6,
        }, indent=2))


if __name__ == "__main__":
    main()
