#!/usr/bin/env python3
"""Perplexity on one text: pilotlight over HTTP beside llama.cpp's llama-perplexity, on the same file and the same tokens.

    benches/perplexity.py [MODEL.gguf...] [--text FILE] [--json FILE]      the model: SmolLM2 of scripts/test-models

Both go over the text in windows of 512 tokens, each by itself (and beginning with the model's token for a text's beginning, where
it has one), and score the second half of each: the perplexity is e to the mean of minus the logarithm of the probability of these
tokens. Ours come from `/v1/completions` with `echo`, `logprobs` and `max_tokens` 0, llama.cpp's from its own program, which does
the same. That both make the same tokens of the text is checked first.

Settings: the weights of the .gguf as they are (sealed `native`); keys and values in float16 on both sides, which is the default of
both; llama.cpp's other settings are its defaults.

The text, benches/perplexity.txt, is "The Adventure of the Blue Carbuncle" by Arthur Conan Doyle, published in 1892 and in the public
domain; its paragraphs are one line each.

Uses the standard library alone. benches/peers.sh builds llama.cpp's programs. Exit code 1: ours is more than 0.5 % above.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

import cold_start as bench
from speed import Hot

WINDOW_TOKENS = 512
# Ours over llama.cpp's at most.
RATIO_MAX = 1.005
# Windows that are asked for at once.
CLIENTS = 4


def post(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=bench.PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps({"model": bench.MODEL, **body}), {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {answer[:2000]!r}")
    return json.loads(answer)


def tokenize(port, text):
    """The text's tokens, and the one that every window begins with, if any."""
    ids = lambda special: post(port, "/tokenize", {"prompt": text, "add_special_tokens": special})["tokens"]
    plain, special = ids(False), ids(True)
    return special, special[0] if special[:1] != plain[:1] else None


def windows(ids, begin):
    whole = [ids[at : at + WINDOW_TOKENS] for at in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)]
    return [window if begin is None else [begin, *window[1:]] for window in whole]


def score(port, window):
    """Logarithms of the probabilities of the tokens of the second half but its first, as llama-perplexity counts."""
    asked = {"prompt": window, "echo": True, "logprobs": 0, "max_tokens": 0, "return_tokens_as_token_ids": True}
    (choice,) = post(port, "/v1/completions", asked)["choices"]
    named = [int(name.removeprefix("token_id:")) for name in choice["logprobs"]["tokens"]]
    if named != window:
        raise RuntimeError("other tokens come back than were sent")
    return choice["logprobs"]["token_logprobs"][WINDOW_TOKENS // 2 + 1 :]


def ours(options, gguf, text):
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = pathlib.Path(scratch) / "model.snapshot"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([options.pilotlight, "seal", gguf, "-o", snapshot], check=True, **quiet)
        server = Hot(options.pilotlight, str(snapshot), options.threads)
        with contextlib.closing(server), concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            ids, begin = tokenize(server.port, text)
            scored = clients.map(lambda window: score(server.port, window), windows(ids, begin))
            scores = [logprob for window in scored for logprob in window]
    return ids, len(scores), math.exp(-math.fsum(scores) / len(scores))


def theirs(options, gguf, file):
    programs = pathlib.Path(options.llama_cpp)
    said = subprocess.run(
        [programs / "llama-tokenize", "-m", gguf, "-f", file, "--ids", "--log-disable"], check=True, capture_output=True, text=True
    ).stdout
    words = [
        programs / "llama-perplexity", "-m", gguf, "-f", file, "-c", str(WINDOW_TOKENS), "-t", str(options.threads), "-ctk", "f16",
        "-ctv", "f16",
    ]  # fmt: skip
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr)
    if not found:
        raise RuntimeError(f"llama-perplexity says nothing: {(done.stdout + done.stderr)[-2000:]}")
    return json.loads(said[said.index("[") :]), float(found[1])


def compare(options, gguf):
    ids, count, mine = ours(options, gguf, options.text.read_text())
    their_ids, peer = theirs(options, gguf, options.text)
    if ids != their_ids:
        at = next((i for i, pair in enumerate(zip(ids, their_ids)) if pair[0] != pair[1]), min(len(ids), len(their_ids)))
        raise RuntimeError(f"the texts' tokens are others from number {at} on: {ids[at : at + 4]} and {their_ids[at : at + 4]}")
    print(f"{gguf.name:36} {len(ids)} tokens, {count} scored: ours {mine:.4f}, llama.cpp {peer:.4f}, ratio {mine / peer:.4f}", flush=True)
    return {"tokens": len(ids), "scored": count, "ours": mine, "llama.cpp": peer, "ratio": mine / peer}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("gguf", type=pathlib.Path, nargs="*", help="the models' files [SmolLM2 of scripts/test-models]")
    parser.add_argument("--text", type=pathlib.Path, default=root / "benches/perplexity.txt", help="[benches/perplexity.txt]")
    parser.add_argument("--pilotlight", default=str(root / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--llama-cpp", help="the folder of llama.cpp's programs [that of what benches/peers.sh prints]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    said = lambda words: subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    options.llama_cpp = options.llama_cpp or pathlib.Path(said(["sh", root / "benches/peers.sh"])).parent
    files = options.gguf or [pathlib.Path(said([root / "scripts/test-models"])) / "SmolLM2-135M-Instruct.Q4_1.gguf"]
    report = {file.name: compare(options, file) for file in files}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(int(any(found["ratio"] > RATIO_MAX for found in report.values())))


if __name__ == "__main__":
    main()
