#!/usr/bin/env python3
"""How long a stream pauses when its runtime ends under it, and that its text is that of an undisturbed one.

    benches/resume.py --snapshot MODEL.snapshot [--tokens 1000] [--runs 5]

A prompt of so many tokens, an answer of 100. After 40 pieces of text its runtime is killed (-9), or told to end (SIGTERM), with which it keeps
what it has computed (--kv-dir). With a standby process. Beside it: the mean time between two pieces, and the first text of the same prompt
where the model is there and nothing of the prompt is in a cache.

Uses the standard library alone.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cold_start import MODEL, PATIENCE_S, Ours  # noqa: E402

ANSWER_TOKENS = 100
PIECES_BEFORE = 40


def prompt(number, tokens):
    return [5 + (i * 37 + number * 101) % 9000 for i in range(tokens)]


def stream(port, tokens, disturb=None):
    """The pieces of an answer with their times; `disturb` is called after some of them."""
    body = {"model": MODEL, "prompt": tokens, "max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    pieces, begun = [], time.perf_counter()
    with contextlib.closing(connection):
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        while line := response.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            pieces.append((time.perf_counter() - begun, "".join(choice["text"] for choice in event["choices"])))
            if disturb and len(pieces) == PIECES_BEFORE:
                disturb()
    return pieces


def text(pieces):
    return "".join(piece for _, piece in pieces)


def gaps(pieces):
    times = [at for at, _ in pieces]
    return [later - sooner for sooner, later in zip(times, times[1:])]


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshot", required=True)
    parser.add_argument("--pilotlight", default=str(root / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Ours(options.pilotlight, options.snapshot, 2, ["--standby", "1", "--kv-dir", folder], idle="60s")
        try:
            report(server, options)
        finally:
            server.close()


def report(server, options):
    def runtime():
        return server.slot()["replicas"][0]["pid"]

    stream(server.port, prompt(0, options.tokens))
    first, between = [], []
    pauses = {"killed": [], "told to end": []}
    for run in range(options.runs):
        for kind, name in enumerate(pauses):
            number = 1 + 2 * run + kind
            tokens = prompt(number, options.tokens)
            how = signal.SIGKILL if name == "killed" else signal.SIGTERM
            disturbed = stream(server.port, tokens, lambda: os.kill(runtime(), how))
            pauses[name].append(max(gaps(disturbed)[PIECES_BEFORE - 1 :]))
            first.append(disturbed[0][0])
            undisturbed = stream(server.port, tokens)
            between.append(statistics.mean(gaps(undisturbed)))
            if text(disturbed) != text(undisturbed):
                raise SystemExit(f"not the same text: {text(disturbed)!r} and {text(undisturbed)!r}")
            time.sleep(0.5)
    ms = lambda values: f"{statistics.median(values) * 1e3:.1f} ms ({min(values) * 1e3:.1f} to {max(values) * 1e3:.1f})"
    print(f"prompt of {options.tokens} tokens, {options.runs} runs, median (least to most); all texts as undisturbed")
    print(f"  first text, nothing cached   {ms(first)}")
    print(f"  between two pieces           {ms(between)}")
    for name, values in pauses.items():
        print(f"  pause, {name:<21} {ms(values)}")


if __name__ == "__main__":
    main()
