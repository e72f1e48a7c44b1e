#!/usr/bin/env python3
"""Decode, prefill and eight sequences at once: pilotlight beside llama.cpp's llama-server on the same files, in one run.

    benches/speed.py MODEL.gguf... [--runs 5] [--json FILE]
    benches/speed.py --all FOLDER       SmolLM2, and the random models of benches/random_models.py in FOLDER

Both servers run with the same number of threads, are warmed, and take turns; no speculation, no prompt caches; tokens are counted
from `usage`. Medians, and ours over theirs.
  decode    one sequence: tokens after the first over their time
  prefill   a prompt of 512 tokens: its tokens over the time to the first token
  eight     eight sequences at once, 32 prompt tokens and 64 answer tokens each: answer tokens over the time of all

Uses the standard library alone. benches/peers.sh builds llama-server.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import cold_start as bench
import random_models

DECODE_TOKENS = 128
PREFILL_TOKENS = 512
EIGHT_TOKENS = 64


def ask(port, prompt, tokens):
    answer = bench.stream(port, "/v1/completions", {
        "model": bench.MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "speculate": False,
    })
    if answer.usage["completion_tokens"] != tokens:
        raise RuntimeError(f"{answer.usage} where {tokens} tokens were asked for")
    return answer


def prompt(seed, tokens):
    return [1000 + (seed * 7919 + i * 104729 + i * i * 31) % 20000 for i in range(tokens)]


def decode(port, turn):
    """The first token is in the time of the prompt: a short one, taken off by asking for it alone."""
    first = ask(port, prompt(turn, 16), 1).end_s
    return (DECODE_TOKENS - 1) / (ask(port, prompt(turn, 16), DECODE_TOKENS).end_s - first)


def prefill(port, turn):
    answer = ask(port, prompt(1000 + turn, PREFILL_TOKENS), 1)
    return answer.usage["prompt_tokens"] / answer.end_s


def eight(port, turn):
    failures = []

    def client(number):
        try:
            ask(port, prompt(turn * 8 + number, 32), EIGHT_TOKENS)
        except Exception as error:  # noqa: BLE001, all that can go wrong is told at the end
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return 8 * EIGHT_TOKENS / (time.perf_counter() - begun)


MEASURES = {"decode": decode, "prefill": prefill, "eight": eight}


class Hot(bench.Ours):
    """Its model's process stays between turns."""

    def __init__(self, *arguments):
        self.idle, bench.IDLE = bench.IDLE, "1h"
        try:
            super().__init__(*arguments)
        finally:
            bench.IDLE = self.idle

    @contextlib.contextmanager
    def hot(self):
        ask(self.port, prompt(0, 8), 1)
        yield self.port


def compare(options, gguf, say):
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        snapshot = pathlib.Path(scratch) / "model.snapshot"
        target = ["--target", options.target] if options.target else []
        subprocess.run([options.pilotlight, "seal", gguf, "-o", snapshot, *target], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ours = Hot(options.pilotlight, str(snapshot), options.threads)
        stack.callback(ours.close)
        ports = {"ours": stack.enter_context(ours.hot())}
        if not options.alone:
            peer = bench.Llama(options.llama_server, str(gguf), options.threads, ("-np", "8", "-c", "8192"))
            ports["llama-server"] = stack.enter_context(peer.hot())
        found = {name: {who: [] for who in ports} for name in MEASURES}
        for name, measure in MEASURES.items():
            for turn in range(-1, options.runs):
                for who, port in ports.items():
                    rate = measure(port, turn + 1)
                    # The first turn warms.
                    if turn >= 0:
                        found[name][who].append(rate)
    report = {}
    for name, each in found.items():
        report[name] = {who: statistics.median(rates) for who, rates in each.items()}
        if "llama-server" in each:
            report[name]["ratio"] = report[name]["ours"] / report[name]["llama-server"]
        say(f"{gguf.name:36} {name:8} " + "  ".join(f"{who} {value:.2f}" for who, value in report[name].items()))
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("gguf", type=pathlib.Path, nargs="*", help="the models' files")
    parser.add_argument("--all", type=pathlib.Path, metavar="FOLDER", help="SmolLM2 and every random model, made in FOLDER")
    parser.add_argument("--pilotlight", default=str(root / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--llama-server", help="the program [what benches/peers.sh prints]")
    parser.add_argument("--target", help="seal for this target [this machine's]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without llama-server")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    if not options.alone and not options.llama_server:
        peers = subprocess.run(["sh", root / "benches/peers.sh"], check=True, stdout=subprocess.PIPE, text=True)
        options.llama_server = peers.stdout.splitlines()[-1]
    files = list(options.gguf)
    if options.all:
        fetched = subprocess.run([root / "scripts/test-models"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        files.append(pathlib.Path(fetched) / "SmolLM2-135M-Instruct.Q4_1.gguf")
        for shape in random_models.SHAPES:
            files += random_models.make(options.all, shape)
    report = {file.name: compare(options, file, lambda text: print(text, flush=True)) for file in files}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
