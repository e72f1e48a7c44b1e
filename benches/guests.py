#!/usr/bin/env python3
"""What guests cost: the same model with and without them, in one run, through HTTP.

    benches/guests.py --gguf MODEL.gguf [--guest guest-sdk/examples/redact/guest.toml] [--runs 9]

Decode is measured in one process, whose guest is exchanged for none and back by its configuration: two processes of the same file differ by more
than a guest costs, as their memory lies elsewhere. For the rest two servers take turns, one with the guest sealed into the snapshot and one without.

  decode       one sequence of 64 tokens, without speculation, several times with and several times without: tokens/s by the whole answer at the client.
  cold start   a streaming chat of one token whose model is not there, to its text: with, beside without.
  hot          the same where the model is there: the first text of a longer answer (a guest may hold back the beginning of what could be a
               secret, which is a token's time or two), and the whole of one with 16 tokens.

What a guest's calls take by themselves: pilotlight guest bench.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches"))
from cold_start import QUESTION, Ours, chat, get, stream  # noqa: E402

TOKENS = 64
# Of each turn.
ANSWERS = 9


def decode(server):
    """Tokens/s of one sequence."""
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": "bench", "messages": messages, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "speculate": False, "cache_prompt": True}
    answer = stream(server.port, "/v1/chat/completions", body)
    if answer.timings["predicted_n"] != TOKENS:
        raise RuntimeError(f"{answer.timings['predicted_n']} tokens in place of {TOKENS}")
    return TOKENS / answer.end_s


def decode_with_and_without(program, snapshot, guest, turns, folder):
    """Tokens/s with and without the guest, in turns, and their ratio by turn."""
    config = pathlib.Path(folder) / "pilotlight.toml"

    def configure(guests):
        beside = config.with_suffix(".new")
        beside.write_text(f'idle = "60s"\n[models.bench]\nsnapshot = "{snapshot}"\nguests = {json.dumps(guests)}\n')
        beside.replace(config)

    configure([])
    server = Ours.of(program, ["--config", str(config), "--threads", "2"])
    speeds, ratios = {"without": [], "with": []}, []
    try:
        decode(server)
        for turn in range(turns):
            medians = {}
            for name in ("without", "with") if turn % 2 else ("with", "without"):
                wanted = [guest] if name == "with" else []
                configure(wanted)
                give_up = time.monotonic() + 30
                while len(json.loads(get(server.admin, "/slots")[1])[0]["replicas"][0]["guests"]) != len(wanted):
                    if time.monotonic() > give_up:
                        raise RuntimeError("the guests are not exchanged")
                    time.sleep(0.02)
                decode(server)
                medians[name] = statistics.median(decode(server) for _ in range(ANSWERS))
                speeds[name].append(medians[name])
            ratios.append(medians["with"] / medians["without"])
    finally:
        server.close()
    return speeds, ratios


def cold(server):
    """Milliseconds to the first text of a model that is not there."""
    give_up = time.monotonic() + 30
    while json.loads(get(server.admin, "/slots")[1])[0]["state"] != "cold":
        if time.monotonic() > give_up:
            raise RuntimeError("the model does not go")
        time.sleep(0.05)
    return chat(server.port, 1).first_s * 1e3


def hot(server, tokens):
    """Milliseconds to the first text, and to the end."""
    answer = chat(server.port, tokens)
    return answer.first_s * 1e3, answer.end_s * 1e3


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "runs": len(values)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--guest", default=str(ROOT / "guest-sdk/examples/redact/guest.toml"))
    parser.add_argument("--pilotlight", default=str(ROOT / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        snapshots = {name: f"{folder}/{name}.snapshot" for name in ("without", "with")}
        for name, snapshot in snapshots.items():
            guest = ["--guest", options.guest] if name == "with" else []
            subprocess.run([options.pilotlight, "seal", options.gguf, *guest, "-o", snapshot], check=True)
        report = {"guest": options.guest}
        speeds, ratios = decode_with_and_without(options.pilotlight, snapshots["without"], options.guest, options.runs, folder)
        report["decode_tokens_s"] = {name: spread(values) for name, values in speeds.items()}
        report["decode_ratio"] = spread(ratios)
        servers = {name: Ours(options.pilotlight, snapshot, 2, [], idle="60s") for name, snapshot in snapshots.items()}
        try:
            firsts, wholes = {name: [] for name in servers}, {name: [] for name in servers}
            for run in range(-1, options.runs):
                for name in list(servers) if run % 2 else list(servers)[::-1]:
                    first, whole = hot(servers[name], 16)
                    if run >= 0:
                        firsts[name].append(first)
                        wholes[name].append(whole)
        finally:
            for server in servers.values():
                server.close()
        report["hot_first_ms"] = {name: spread(values) for name, values in firsts.items()}
        report["hot_16_tokens_ms"] = {name: spread(values) for name, values in wholes.items()}
        servers = {name: Ours(options.pilotlight, snapshot, 2, [], idle="300ms") for name, snapshot in snapshots.items()}
        try:
            times = {name: [] for name in servers}
            for run in range(-1, options.runs * 2):
                for name in list(servers) if run % 2 else list(servers)[::-1]:
                    took = cold(servers[name])
                    if run >= 0:
                        times[name].append(took)
        finally:
            for server in servers.values():
                server.close()
        report["cold_first_ms"] = {name: spread(values) for name, values in times.items()}
        report["cold_added_ms"] = statistics.median(times["with"]) - statistics.median(times["without"])
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
