#!/usr/bin/env python3
"""Many clients at once, and prompts that begin alike: pilotlight beside llama.cpp's llama-server, in one run.

    benches/throughput.py --gguf MODEL.gguf --snapshot MODEL.snapshot [--runs 3] [--json FILE]

Same weights, same number of threads, loopback; the servers take turns. What is measured, always at the client:
  throughput   so many clients, each with one streamed request of 64 to 192 prompt tokens and 64 answer tokens after the
               other; answer tokens of all over the time from the first request to the last answer.
  first token  of these requests, the 95th percentile of the time from asking to the first piece of text.
  prefix       a prompt of 1,000 tokens and then the same with another ending: the second's time to the first token over the
               first's; prompt caches on.
  schema       ours alone: decode of 128 tokens that a JSON schema allows over the same without one, no speculation.
  speculation  ours alone: an answer that repeats itself, with and without guesses ahead.
Prompts of different requests are different, and prompt caches are off but for `prefix`.

Uses the standard library alone. benches/peers.sh builds llama-server.
"""

import json
import statistics
import sys
import threading
import time

import cold_start as bench

CLIENTS = (8, 32)
REQUESTS_EACH = 2
ANSWER_TOKENS = 64
PREFIX_TOKENS = 1000


def prompt(seed, tokens):
    return [1000 + (seed * 7919 + i * 104729 + i * i * 31) % 20000 for i in range(tokens)]


def ask(port, ids, tokens, **more):
    body = {"model": bench.MODEL, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}
    answer = bench.stream(port, "/v1/completions", body)
    if answer.usage["completion_tokens"] != tokens:
        raise RuntimeError(f"{answer.usage} where {tokens} tokens were asked for")
    return answer


def crowd(port, clients, turn):
    """Tokens a second of all clients together, and each request's time to its first text."""
    firsts, failures = [], []
    barrier = threading.Barrier(clients + 1)

    def client(number):
        barrier.wait()
        try:
            for request in range(REQUESTS_EACH):
                seed = (turn * 1000 + number) * 10 + request
                firsts.append(ask(port, prompt(seed, 64 + seed % 129), ANSWER_TOKENS).first_s)
        except Exception as error:  # noqa: BLE001, all that can go wrong is told at the end
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begun
    if failures:
        raise failures[0]
    return clients * REQUESTS_EACH * ANSWER_TOKENS / spent, firsts


def percentile_95(values):
    return statistics.quantiles(values, n=20)[-1]


def prefix(port, turn):
    """The second request's time to its first token over the first's."""
    shared = prompt(500_000 + turn, PREFIX_TOKENS)
    first, second = (ask(port, [*shared, ending], 1, cache_prompt=True).end_s for ending in (7000, 8000))
    return second / first


def repetition(port, speculate):
    ids = prompt(3, 12) * 6
    answer = ask(port, ids, 128, speculate=speculate)
    return 127 / (answer.end_s - answer.first_s)


SCHEMA = {"type": "array", "minItems": 60, "items": {"type": "object", "required": ["name", "size", "lit"], "properties": {
    "name": {"type": "string"}, "size": {"type": "integer"}, "lit": {"type": "boolean"}}, "additionalProperties": False}}


def schema_rate(port, form):
    """Tokens a second of one sequence at temperature 1."""
    answer = ask(port, prompt(11, 32), 128, temperature=1, seed=5, speculate=False, **form)
    return 127 / (answer.end_s - answer.first_s)


def measure(server, clients, runs, say):
    found = {"tokens_per_s": [], "first_token_s": []}
    with server.hot() as port:
        crowd(port, clients, 900)
        for run in range(runs):
            rate, firsts = crowd(port, clients, run)
            found["tokens_per_s"].append(rate)
            found["first_token_s"].extend(firsts)
    found = {"tokens_per_s": statistics.median(found["tokens_per_s"]), "first_token_p95_s": percentile_95(found["first_token_s"])}
    say(f"{server.name}, {clients} clients: {found['tokens_per_s']:.0f} tokens/s, first token p95 {found['first_token_p95_s']:.2f} s")
    return found


def main():
    options = bench.arguments(__doc__)
    say = lambda text: print(text, file=sys.stderr, flush=True)
    ours = bench.Ours(options.pilotlight, options.snapshot, options.threads)
    report = {"threads": options.threads, "runs": options.runs, "crowd": {}}
    try:
        for clients in CLIENTS:
            extra = ("-np", str(clients), "-c", str(512 * clients))
            peers = [] if options.alone else [bench.Llama(options.llama_server, options.gguf, options.threads, extra)]
            names = {"pilotlight": ours, **{"llama-server": peer for peer in peers}}
            report["crowd"][clients] = {name: measure(server, clients, options.runs, say) for name, server in names.items()}
        with ours.hot() as port:
            report["prefix_second_over_first"] = statistics.median(prefix(port, run) for run in range(options.runs))
            schema_rate(port, {"guided_json": SCHEMA})
            turns = [(schema_rate(port, {}), schema_rate(port, {"guided_json": SCHEMA})) for _ in range(2 * options.runs + 1)]
            free, bound = (statistics.median(turn[i] for turn in turns) for i in (0, 1))
            report["schema_over_free_decode"] = bound / free
            plain, guessed = (statistics.median(repetition(port, on) for _ in range(options.runs)) for on in (False, True))
            report["speculation_on_repetition"] = guessed / plain
    finally:
        ours.close()
    for clients, each in report["crowd"].items():
        if "llama-server" in each:
            a, b = each["pilotlight"], each["llama-server"]
            each["ours_over_theirs"] = {name: a[name] / b[name] for name in a}
    text = json.dumps(report, indent=2)
    print(text)
    if options.json and options.json != "-":
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
