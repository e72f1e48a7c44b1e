"""Seals, serves and compares every architecture with transformers, over HTTP: from its Hugging Face folder, and from the GGUF
that llama.cpp's converter makes of it. One line a model; exit code 1 if any differs."""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import make
from models import ENCODERS, MODELS

ALL = MODELS | ENCODERS
# 1 - cosine.
ENCODER_TOLERANCES = {"f32": 1e-6, "native": 1e-4}
# |logprob difference| relative to max(1, |logprob|), and the margin under which greedy ids may part.
TOLERANCES = {"f32": (2e-3, 0.01), "native": (0.35, 0.5)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pilotlight", required=True, help="the binary")
    arguments.add_argument("--only", action="append", choices=list(ALL), help="this model; may be repeated")
    arguments.add_argument("--keep", type=pathlib.Path, help="make the models in this folder and keep them")
    arguments.add_argument("--llama-cpp", type=pathlib.Path, help="its sources, to compare GGUF files, too")
    arguments = arguments.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or pathlib.Path(scratch)
        names = arguments.only or list(ALL)
        missing = [name for name in names if not (folder / name / "golden.json").exists()]
        if missing:
            make.main(folder, missing)
        for name in names:
            for weights in TOLERANCES:
                failed += not check(arguments.pilotlight, folder / name, folder / name, weights, pathlib.Path(scratch))
            if not arguments.llama_cpp:
                continue
            if why := ALL[name][3].get("gguf"):
                print(f"left out {name} gguf: {why}")
                continue
            converted = convert(arguments.llama_cpp, folder / name, pathlib.Path(scratch))
            failed += not (converted and check(arguments.pilotlight, folder / name, converted, "f32", pathlib.Path(scratch)))
    sys.exit(1 if failed else 0)


def convert(llama_cpp, folder, scratch):
    out = scratch / f"{folder.name}.gguf"
    program = pathlib.Path(__file__).with_name("to_gguf.py")
    made = subprocess.run([sys.executable, program, llama_cpp, folder, out, "f32"], capture_output=True, text=True)
    if made.returncode != 0:
        print(f"FAILED  {folder.name} gguf: its converter: {made.stderr.strip()[-600:]}")
        return None
    return out


def check(pilotlight, folder, model, weights, scratch):
    what = f"{folder.name} {weights}" if model == folder else f"{folder.name} gguf {weights}"
    snapshot = scratch / f"{folder.name}.{weights}.snapshot"
    seal = subprocess.run([pilotlight, "seal", model, "-o", snapshot, "--weights", weights], capture_output=True, text=True)
    if seal.returncode != 0:
        print(f"FAILED  {what}: seal: {seal.stderr.strip()}")
        return False
    golden = json.loads((folder / "golden.json").read_text())
    if folder.name in ENCODERS:
        with Server(pilotlight, snapshot) as server:
            worst = max(1 - cosine(server.embed(case["ids"]), case["embedding"]) for case in golden["cases"])
        good = worst <= ENCODER_TOLERANCES[weights]
        print(f"{'ok    ' if good else 'FAILED'}  {what}: cosine at least {1 - worst:.7f}")
        return good
    with Server(pilotlight, snapshot) as server:
        found = [compare(server, case, *TOLERANCES[weights]) for case in golden["cases"]]
    worst, parted = max(error for error, _ in found), [what for _, what in found if what]
    good = worst <= 1.0 and not parted
    print(f"{'ok    ' if good else 'FAILED'}  {what}: worst difference {worst:.3f} of the tolerance {' '.join(parted)}")
    return good


def compare(server, case, tolerance, margin):
    """The worst difference as a share of the tolerance; where greedy ids part although the margin is wide."""
    answer = server.complete(case["prompt_ids"], 1, 20)
    largest = max(case["last_logits"])
    norm = largest + math.log(sum(math.exp(x - largest) for x in case["last_logits"]))
    worst = 0.0
    for token, logprob in answer["logprobs"]["top_logprobs"][0].items():
        want = case["last_logits"][int(token.removeprefix("token_id:"))] - norm
        worst = max(worst, abs(logprob - want) / (tolerance * max(1.0, abs(want))))
    tokens = server.complete(case["prompt_ids"], len(case["greedy_ids"]), 0)["logprobs"]["tokens"]
    for at, (token, want) in enumerate(zip(tokens, case["greedy_ids"])):
        if token != f"token_id:{want}":
            narrow = case["greedy_margins"][at] <= margin
            return worst, "" if narrow else f"greedy id {at} is {token}, not {want}, margin {case['greedy_margins'][at]}"
    return worst, ""


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)


class Server:
    """`pilotlight serve` on a port of its own; ends with the block."""

    def __init__(self, pilotlight, snapshot):
        command = [pilotlight, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--model", f"m={snapshot}"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "listening on " in line:
                self.address = line.split("listening on ")[1].strip()
                return
        raise SystemExit(f"{command} did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()

    def complete(self, prompt, tokens, logprobs):
        body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": logprobs,
                "return_tokens_as_token_ids": True, "ignore_eos": True}
        return self.post("/v1/completions", body)["choices"][0]

    def embed(self, ids):
        return self.post("/v1/embeddings", {"model": "m", "input": ids})["data"][0]["embedding"]

    def post(self, path, body):
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


if __name__ == "__main__":
    main()
