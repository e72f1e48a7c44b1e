#!/usr/bin/env python3
"""What it costs that a model's bytes are verified: first token from zero of a snapshot's first life beside later ones.

    benches/first_life.py SNAPSHOT [--pilotlight PROGRAM]... [--runs 5] [--json FILE]

A snapshot's first runtime verifies every byte of it before a token leaves; the next ones, of the same `serve`, take what is still in memory for
verified. Each run starts `serve` with a standby and asks from zero twice, and then while the model is there, with its file in the page cache. Several
programs take turns. `aim` is 60 ms, the bytes at the rate at which `pilotlight bench restore` has memory read in the same minute, and the hot answer.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cold_start import MODEL, Ours, stream, warm  # noqa: E402

PROMPT_TOKENS = 16
HOT = 3
# The standby is there by then.
SETTLE_S = 0.5


def first_token_ms(server, number):
    """Until the first token was computed, by the server's clock: one that is no whole character shows no text."""
    prompt = [300 + (number * 7919 + i * 104729) % 20000 for i in range(PROMPT_TOKENS)]
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    answer = stream(server.port, "/v1/completions", body)
    return answer.timings["first_token_ms"] if answer.timings["cold"] else answer.timings["prompt_ms"]


def life(program, options):
    """First, later, hot."""
    server = Ours(program, options.snapshot, options.threads, ["--standby", "1"])
    with contextlib.closing(server):
        found = []
        for number in range(2):
            warm([options.snapshot])
            server.until_cold()
            time.sleep(SETTLE_S)
            found.append(first_token_ms(server, number))
        return *found, min(first_token_ms(server, 2 + number) for number in range(HOT))


def memory_rate(program, snapshot):
    words = [program, "bench", "restore", snapshot, "--runs", "3", "--json"]
    report = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return report["page_cache_warm"]["memory_read_bytes_per_second"]["max"]


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot")
    parser.add_argument("--pilotlight", action="append", help="a program, or several [target/release/pilotlight]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="write every run there")
    options = parser.parse_args()
    programs = options.pilotlight or [str(root / "target/release/pilotlight")]
    runs = {program: [] for program in programs}
    for run in range(options.runs):
        for program in programs[:: -1 if run % 2 else 1]:
            runs[program].append(life(program, options))
            print(program, *(f"{value:.0f}" for value in runs[program][-1]), file=sys.stderr, flush=True)
    rate, size = memory_rate(programs[-1], options.snapshot), pathlib.Path(options.snapshot).stat().st_size
    report = {"bytes": size, "runs": options.runs, "memory_gb_per_s": round(rate / 1e9, 1), "programs": {}}
    for program, found in runs.items():
        first, later, hot = (statistics.median(column) for column in zip(*found))
        names = {"first_ms": first, "later_ms": later, "hot_ms": hot, "aim_ms": 60 + size / rate * 1e3 + hot}
        report["programs"][program] = {name: round(value, 1) for name, value in names.items()}
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
