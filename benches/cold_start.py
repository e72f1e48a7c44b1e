#!/usr/bin/env python3
"""From no process to the first token, and hot speed: pilotlight beside llama.cpp's llama-server, in one run.

    benches/cold_start.py --gguf MODEL.gguf --snapshot MODEL.snapshot [--runs 5] [--json FILE]

Both serve the same weights (the snapshot is sealed from the .gguf), with the same number of threads, on loopback, one
request at a time, and take turns, so that a machine that gets slower does so for both.

What is measured, always at the client:
  cold start   a streaming chat, from the moment somebody asks while no process has the model, to the first piece of text.
               llama-server: from before its process is started; it is asked as soon as /health says ok, which is looked
               at every 2 ms. Ours: from before the connection to `pilotlight serve` whose slot is cold, with and without a standby process.
  hot          the same question where the model is there, its prompt in no cache: what a first token from zero is set against.
  page cache   warm, or cold: the model's file and the program's files dropped before each run.
  decode       one sequence of 128 tokens; tokens/s after the first token, counted from `usage`.
  prefill      prompts of about 512 tokens, one answer token; prompt tokens from `usage` over the time to the first token.
               No prompt is repeated, and prompt caches are off.

Uses the standard library alone. benches/peers.sh builds llama-server.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import queue
import re
import signal
import statistics
import subprocess
import sys
import threading
import time

PATIENCE_S = 120
HEALTH_EVERY_S = 0.002
DECODE_TOKENS = 128
PREFILL_TOKENS = 512
IDLE = "300ms"
MODEL = "bench"
QUESTION = "Write one sentence about a lighthouse that is dark until a ship comes."


# --- the client -----------------------------------------------------------------------------------------------------


class Answer:
    """A streamed answer: seconds from `begun` to the first text and to the end, and the server's own counts."""

    def __init__(self, begun):
        self.begun, self.first_s, self.end_s = begun, None, None
        self.text, self.usage, self.timings = "", None, None

    def event(self, data):
        event = json.loads(data)
        if "error" in event:
            raise RuntimeError(f"the answer broke off: {event['error']}")
        for choice in event.get("choices", []):
            piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            if piece and self.first_s is None:
                self.first_s = time.perf_counter() - self.begun
            self.text += piece
        self.usage = event.get("usage") or self.usage
        self.timings = event.get("timings") or self.timings


def stream(port, path, body, begun=None):
    """Posts `body` with `stream` set and reads the answer to its end."""
    answer = Answer(time.perf_counter() if begun is None else begun)
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    body.setdefault("cache_prompt", False)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {response.read(2000)!r}")
        # readline gives each line as it arrives; read would wait for a full buffer.
        for line in iter(response.readline, b""):
            if line.startswith(b"data:") and b"[DONE]" not in line:
                answer.event(line[5:])
    answer.end_s = time.perf_counter() - answer.begun
    return answer


def chat(port, tokens, begun=None):
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": MODEL, "messages": messages, "max_tokens": tokens, "temperature": 0}
    answer = stream(port, "/v1/chat/completions", body, begun)
    if answer.first_s is None:
        raise RuntimeError("an answer without text")
    return answer


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


# --- the two servers ------------------------------------------------------------------------------------------------


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(process):
    """Asks the process to end, and insists."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Llama:
    """llama-server: one process, one model; there is no zero but its absence."""

    def __init__(self, program, gguf, threads, extra=()):
        self.name = " ".join(["llama-server", *extra])
        self.port = free_port()
        self.command = [
            program, "-m", gguf, "--host", "127.0.0.1", "--port", str(self.port), "-t", str(threads), "-tb", str(threads),
            "-np", "1", "-c", "4096", "--log-disable", *extra,
        ]
        self.files = [gguf, *(str(path) for path in pathlib.Path(program).parent.iterdir() if path.is_file())]

    def cold(self):
        """Starts the process, asks as soon as it can answer, and ends it."""
        begun = time.perf_counter()
        with self.hot(wait_from=begun):
            return chat(self.port, 8, begun)

    @contextlib.contextmanager
    def hot(self, wait_from=None):
        process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.wait_until_healthy(process, wait_from or time.perf_counter())
            yield self.port
        finally:
            end(process)

    def wait_until_healthy(self, process, begun):
        while time.perf_counter() - begun < PATIENCE_S:
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {process.returncode}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(self.port, "/health")[0] == 200:
                    return
            time.sleep(HEALTH_EVERY_S)
        raise RuntimeError(f"{self.name} is not healthy after {PATIENCE_S} s")

    def close(self):
        """Nothing is left to be ended."""


class Ours:
    """`pilotlight serve`: the activator stays, the model's process comes and goes."""

    def __init__(self, program, snapshot, threads, extra=(), idle=IDLE):
        self.name = " ".join(["pilotlight", *extra])
        self.files = [snapshot, program]
        self.start(program, ["--idle", idle, "--model", f"{MODEL}={snapshot}", "--threads", str(threads), *extra])

    @classmethod
    def of(cls, program, words):
        """`pilotlight serve` with these words alone."""
        server = cls.__new__(cls)
        server.name, server.files = "pilotlight", [program]
        server.start(program, words)
        return server

    def start(self, program, words):
        command = [program, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = queue.Queue(maxsize=1000)
        threading.Thread(target=self.follow, args=(said,), daemon=True).start()
        self.admin, self.port = self.address(said, "admin on"), self.address(said, "listening on")

    def follow(self, said):
        for line in self.process.stderr:
            with contextlib.suppress(queue.Full):
                said.put_nowait(line)

    @staticmethod
    def address(said, words):
        while True:
            found = re.match(rf"{words} http://.*:(\d+)", said.get(timeout=PATIENCE_S))
            if found:
                return int(found[1])

    def slot(self):
        slots = json.loads(get(self.admin, "/slots")[1])
        return next(slot for slot in slots if slot["name"] == MODEL)

    def until_cold(self):
        give_up = time.perf_counter() + PATIENCE_S
        while self.slot()["state"] != "cold":
            if time.perf_counter() > give_up:
                raise RuntimeError(f"the slot does not become cold: {self.slot()}")
            time.sleep(0.02)

    def cold(self):
        self.until_cold()
        answer = chat(self.port, 8)
        if not answer.timings or not answer.timings["cold"]:
            raise RuntimeError(f"that was no cold start: {answer.timings}")
        return answer

    @contextlib.contextmanager
    def hot(self):
        chat(self.port, 1)
        yield self.port

    def close(self):
        end(self.process)


# --- what is measured -----------------------------------------------------------------------------------------------


def drop(files):
    """Takes `files` out of the page cache; says how."""
    try:
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")
        return "drop_caches"
    except OSError:
        for path in files:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return "fadvise"


def warm(files):
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 22):
                pass


def cold_starts(servers, runs, say):
    """Seconds to the first token, and our own account of it; servers take turns."""
    results = {server.name: {"warm": [], "cold": [], "timings": []} for server in servers}
    for cache in ("warm", "cold"):
        for run in range(runs):
            for server in servers[run % len(servers):] + servers[: run % len(servers)]:
                if isinstance(server, Ours):
                    server.until_cold()
                if cache == "cold":
                    say(f"page cache dropped by {drop(server.files)}")
                else:
                    warm(server.files)
                answer = server.cold()
                results[server.name][cache].append(answer.first_s)
                if isinstance(server, Ours):
                    results[server.name]["timings"].append({"cache": cache, **answer.timings})
                say(f"{server.name}, {cache} cache: first token after {answer.first_s * 1e3:.0f} ms")
    return results


def hot_first_tokens(ours, runs):
    """Seconds to the first token of the same question, where the model is there; none finds its prompt in a cache."""
    with ours.hot() as port:
        return [chat(port, 8).first_s for _ in range(runs)]


def decode_rate(port):
    """Tokens a second after the first, of one sequence."""
    answer = stream(port, "/v1/completions", {
        "model": MODEL, "prompt": "Once upon a time", "max_tokens": DECODE_TOKENS, "temperature": 0, "ignore_eos": True,
    })
    tokens = answer.usage["completion_tokens"]
    if tokens != DECODE_TOKENS:
        raise RuntimeError(f"{tokens} tokens came, {DECODE_TOKENS} were asked for")
    return (tokens - 1) / (answer.end_s - answer.first_s)


def prefill_rate(port, turn):
    """Prompt tokens a second up to the first token. Each turn's prompt is its own."""
    prompt = [1000 + (turn * 7919 + i * 104729) % 20000 for i in range(PREFILL_TOKENS)]
    answer = stream(port, "/v1/completions", {
        "model": MODEL, "prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True,
    })
    # One token was asked for: the end is the first token, even where it is no whole character.
    return answer.usage["prompt_tokens"] / answer.end_s


def hot_speed(servers, runs, say):
    results = {server.name: {"decode": [], "prefill": []} for server in servers}
    for run in range(runs):
        for server in servers:
            with server.hot() as port:
                prefill_rate(port, -1 - run)
                results[server.name]["decode"].append(decode_rate(port))
                results[server.name]["prefill"].append(prefill_rate(port, run))
            last = {name: f"{values[-1]:.0f}" for name, values in results[server.name].items()}
            say(f"{server.name}, hot: {last} tokens/s")
    return results


# --- the report -----------------------------------------------------------------------------------------------------


def table(report):
    rows = [f"{'median (least-most)':30}{'first token, warm':>24}{'first token, cold':>24}{'decode':>16}{'prefill 512':>16}"]

    def ms(values):
        shown = [value * 1e3 for value in values]
        return f"{statistics.median(shown):.0f} ({min(shown):.0f}-{max(shown):.0f}) ms"

    def rate(values):
        return f"{statistics.median(values):.0f} tokens/s" if values else "-"

    for name, starts in report["cold_start_s"].items():
        speed = report["hot_tokens_per_s"].get(name, {"decode": [], "prefill": []})
        cells = [ms(starts["warm"]), ms(starts["cold"]), rate(speed["decode"]), rate(speed["prefill"])]
        rows.append(f"{name:30}{cells[0]:>24}{cells[1]:>24}{cells[2]:>16}{cells[3]:>16}")
    return "\n".join(rows)


def ratios(report):
    """Ours over the best of theirs: below 1 is faster for times, above 1 is faster for rates."""
    starts, speed = report["cold_start_s"], report["hot_tokens_per_s"]
    theirs = [name for name in starts if not name.startswith("pilotlight")]
    if not theirs:
        return {}
    middle = statistics.median
    found = {
        f"{name}_first_token_{cache}": middle(starts[name][cache]) / min(middle(starts[peer][cache]) for peer in theirs)
        for name in starts if name not in theirs
        for cache in ("warm", "cold")
    }
    for what in ("decode", "prefill"):
        peers = [middle(speed[name][what]) for name in theirs if name in speed]
        if peers and "pilotlight" in speed:
            found[what] = middle(speed["pilotlight"][what]) / max(peers)
    return found


def more_than_hot(report):
    """Milliseconds that a first token from zero costs beside one of a model that is there, page cache warm."""
    hot = statistics.median(report["hot_first_token_s"])
    ours = {name: starts for name, starts in report["cold_start_s"].items() if name.startswith("pilotlight")}
    return {name: (statistics.median(starts["warm"]) - hot) * 1e3 for name, starts in ours.items()}


def where_it_went(report):
    timings = [timing for timing in report["cold_start_s"]["pilotlight"]["timings"] if timing["cache"] == "warm"]
    names = ["held_ms", "launch_ms", "restore_ms", "prompt_ms", "first_token_ms"]
    return {name: statistics.median(timing[name] for timing in timings) for name in names}


def of_model(description):
    """The words of a bench that seals a model and serves it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--model", required=True, help="a .gguf or a folder")
    parser.add_argument("--pilotlight", default=str(root / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    return parser


def arguments(description=__doc__):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "pilotlight/peers"
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--gguf", required=True, help="the model's file, for llama-server")
    parser.add_argument("--snapshot", required=True, help="the same, sealed, for pilotlight")
    parser.add_argument("--pilotlight", default=str(root / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--llama-server", default=str(peers / "llama.cpp/llama-server"), help="the program [%(default)s]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without llama-server")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, '-' for standard output instead of the table")
    return parser.parse_args()


def main():
    options = arguments()
    say = lambda text: print(text, file=sys.stderr, flush=True)
    ours = Ours(options.pilotlight, options.snapshot, options.threads)
    servers = [ours]
    try:
        if not options.alone:
            if not os.access(options.llama_server, os.X_OK):
                sys.exit(f"{options.llama_server} is not there; benches/peers.sh builds it (or --alone)")
            peer = lambda *extra: Llama(options.llama_server, options.gguf, options.threads, extra)
            servers += [peer(), peer("--no-warmup")]
        # Last, so that the first two are ours and theirs.
        standby = Ours(options.pilotlight, options.snapshot, options.threads, ["--standby", "1"])
        servers.append(standby)
        report = {
            "threads": options.threads,
            "runs": options.runs,
            "cold_start_s": cold_starts(servers, options.runs, say),
            "hot_first_token_s": hot_first_tokens(ours, options.runs),
            # Warm-up is over by then, so one llama-server stands for both.
            "hot_tokens_per_s": hot_speed(servers[:1] if options.alone else servers[:2], options.runs, say),
        }
    finally:
        for server in servers:
            server.close()
    report["ours_over_best_of_theirs"] = ratios(report)
    report["more_than_hot_ms"] = more_than_hot(report)
    report["ours_where_it_went_warm_ms"] = where_it_went(report)
    if options.json == "-":
        print(json.dumps(report, indent=2))
        return
    print(table(report))
    print("ours over the best of theirs:", ", ".join(f"{name} {value:.2f}" for name, value in report["ours_over_best_of_theirs"].items()))
    print("from zero, more than hot (warm):", ", ".join(f"{name} {value:.1f} ms" for name, value in report["more_than_hot_ms"].items()))
    print("ours, where it went (warm):", ", ".join(f"{name} {value:.1f}" for name, value in report["ours_where_it_went_warm_ms"].items()))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
