"""Seals, serves and compares every architecture with transformers, over HTTP. One line a model; exit code 1 if any differs."""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import make
from models import MODELS

# |logprob difference| relative to max(1, |logprob|), and the margin under which greedy ids may part.
TOLERANCES = {"f32": (2e-3, 0.01), "native": (0.35, 0.5)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pilotlight", required=True, help="the binary")
    arguments.add_argument("--only", action="append", choices=list(MODELS), help="this model; may be repeated")
    arguments.add_argument("--keep", type=pathlib.Path, help="make the models in this folder and keep them")
    arguments = arguments.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or pathlib.Path(scratch)
        names = arguments.only or list(MODELS)
        missing = [name for name in names if not (folder / name / "golden.json").exists()]
        if missing:
            make.main(folder, missing)
        for name in names:
            for weights in TOLERANCES:
                failed += not check(arguments.pilotlight, folder / name, weights, pathlib.Path(scratch))
    sys.exit(1 if failed else 0)


def check(pilotlight, folder, weights, scratch):
    snapshot = scratch / f"{folder.name}.{weights}.snapshot"
    seal = subprocess.run([pilotlight, "seal", folder, "-o", snapshot, "--weights", weights], capture_output=True, text=True)
    if seal.returncode != 0:
        print(f"FAILED  {folder.name} {weights}: seal: {seal.stderr.strip()}")
        return False
    golden = json.loads((folder / "golden.json").read_text())
    with Server(pilotlight, snapshot) as server:
        found = [compare(server, case, *TOLERANCES[weights]) for case in golden["cases"]]
    worst, parted = max(error for error, _ in found), [what for _, what in found if what]
    good = worst <= 1.0 and not parted
    print(f"{'ok    ' if good else 'FAILED'}  {folder.name} {weights}: worst difference {worst:.3f} of the tolerance {' '.join(parted)}")
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
        request = urllib.request.Request(f"{self.address}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["choices"][0]


if __name__ == "__main__":
    main()
