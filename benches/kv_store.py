#!/usr/bin/env python3
"""A long conversation that goes on after its model went to zero: first token with keys and values on disk, and without.

    benches/kv_store.py --snapshot MODEL.snapshot [--runs 5] [--tokens 4000] [--json FILE]

`pilotlight serve` runs twice, with `--kv-dir` and without, and the two take turns. Each run has a prompt of its own, of about
`--tokens` tokens, which is asked once; the slot goes cold; then the same conversation is asked again with a few tokens more, from
before the connection to the first token. Page cache warm, greedy, and the answers of both must be the same tokens.

Also: how much longer the first question takes beside one that keeps nothing, as writing must cost nobody anything.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cold_start import MODEL, Ours, stream  # noqa: E402

ANSWER_TOKENS = 8


def conversation(run, tokens):
    """Token ids of a prompt that no other run has."""
    return [1000 + (run * 7919 + i * 104729) % 20000 for i in range(tokens)]


def ask(server, prompt):
    return stream(server.port, "/v1/completions", {
        "model": MODEL, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True, "logprobs": 0,
        "return_tokens_as_token_ids": True, "cache_prompt": True,
    })


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshot", required=True)
    parser.add_argument("--pilotlight", default=str(root / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keeping = Ours(options.pilotlight, options.snapshot, options.threads, ["--kv-dir", folder])
        plain = Ours(options.pilotlight, options.snapshot, options.threads)
        servers = {"kept": keeping, "computed again": plain}
        first = {name: [] for name in servers}
        again = {name: [] for name in servers}
        try:
            for run in range(options.runs):
                texts = {}
                for name, server in list(servers.items())[:: 1 if run % 2 else -1]:
                    server.until_cold()
                    prompt = conversation(run, options.tokens)
                    first[name].append(ask(server, prompt).first_s)
                    server.until_cold()
                    answer = ask(server, prompt + [7, 8, 9])
                    again[name].append(answer.first_s)
                    texts[name] = answer.text
                if len(set(texts.values())) != 1:
                    sys.exit(f"the answers differ: {texts}")
                print(f"run {run + 1}: " + ", ".join(f"{name} {again[name][-1] * 1e3:.0f} ms" for name in servers), file=sys.stderr)
        finally:
            for server in servers.values():
                server.close()
    middle = lambda values: statistics.median(values) * 1e3
    report = {
        "tokens": options.tokens, "runs": options.runs,
        "first_token_again_ms": {name: middle(values) for name, values in again.items()},
        "first_token_first_ms": {name: middle(values) for name, values in first.items()},
        "again_kept_over_computed": middle(again["kept"]) / middle(again["computed again"]),
        "first_kept_over_plain": middle(first["kept"]) / middle(first["computed again"]),
    }
    print(json.dumps(report, indent=2))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
