#!/usr/bin/env python3
"""What it costs that a snapshot is encrypted: first token from zero beside the same one in the clear, and the same with memory that is ready.

    benches/encryption.py --model MODEL.gguf [--runs 7] [--idle-s 3 | --present] [--folder DIR] [--json FILE]

Seals the model with `--encrypt-key` and without, serves both with a standby process, and the encrypted one also with a standby that has as much
memory ready as the file has bytes (`--standby-memory`), and asks each from zero by turns: with its file in the page cache, and with the cache
dropped. Beside it: how fast this machine decrypts in its caches, as `pilotlight bench restore --decrypt-key` measures it, and what 1.3 times the
file's bytes at that rate would take. `--idle-s` is how long nothing runs before each: a virtual machine gives memory that nobody uses back
to its host meanwhile, and has to ask for it again. `--present` keeps it from that, by holding most of it and touching the rest before each.
"""

import contextlib
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cold_start import Ours, drop, hot_first_tokens, of_model, warm  # noqa: E402
from present import Present  # noqa: E402

KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"


def seal(options, folder, name, words=()):
    path = str(folder / name)
    subprocess.run([options.pilotlight, "seal", options.model, "-o", path, *words], check=True, stdout=subprocess.DEVNULL)
    return path


def measure(ways, options, cache, present):
    """Milliseconds to the first token, of each way, by turns."""
    found = {name: [] for name in ways}
    # Each comes behind each other about as often: what one leaves (a disk that was just busy, memory in small pages) the next one meets.
    orders = itertools.cycle(itertools.permutations(ways))
    for run in range(-1, options.runs):
        for name in next(orders):
            for server in ways.values():
                server.until_cold()
            server = ways[name]
            if cache == "warm":
                warm(server.files)
            elif (how := drop(server.files)) != "drop_caches":
                print(f"page cache dropped by {how}, which leaves what others have mapped", file=sys.stderr)
            if present:
                present.touch()
            else:
                time.sleep(options.idle_s)
            first_s = server.cold().first_s
            # The first run is when the program and the plain file are first read.
            if run >= 0:
                found[name].append(first_s * 1e3)
                print(f"{cache}, {name}: {first_s * 1e3:.1f} ms", file=sys.stderr, flush=True)
    return found


def decryption_rate(options, path, key):
    words = ["bench", "restore", path, "--decrypt-key", str(key), "--json"]
    report = subprocess.run([options.pilotlight, *words], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(report)["page_cache_warm"]["decryption_bytes_per_second"]["max"]


def main():
    parser = of_model(__doc__)
    parser.add_argument("--idle-s", type=float, default=3)
    parser.add_argument("--present", action="store_true", help="nothing waits for a host to give memory: some gigabytes are held for it")
    parser.add_argument("--folder", help="where to seal: on a disk, if dropping its pages is to mean something [a temporary folder]")
    parser.add_argument("--json", type=pathlib.Path, help="write every cold start there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, contextlib.ExitStack() as servers:
        folder = pathlib.Path(folder)
        key = folder / "operator.key"
        key.write_text(KEY)
        clear = seal(options, folder, "clear")
        # One each: what is below the page cache may remember a file that it has just read.
        hidden, also = (seal(options, folder, name, ["--encrypt-key", str(key)]) for name in ("hidden", "also"))
        standby = ["--standby", "1"]
        ways = {}
        decrypt = ["--decrypt-key", str(key)]
        ready = ["--standby-memory", str(pathlib.Path(clear).stat().st_size)]
        for name, path, words in [("clear", clear, []), ("encrypted", hidden, decrypt), ("ready", also, [*decrypt, *ready])]:
            ways[name] = Ours(options.pilotlight, path, options.threads, [*standby, *words])
            servers.callback(ways[name].close)
        present = Present() if options.present else None
        if present:
            servers.callback(present.close)
        found = {cache: measure(ways, options, cache, present) for cache in ("warm", "cold")}
        hot = statistics.median(hot_first_tokens(ways["clear"], options.runs)) * 1e3
        rate = decryption_rate(options, hidden, key)
        megabytes = pathlib.Path(clear).stat().st_size / 1e6
    middle = {cache: {name: statistics.median(runs) for name, runs in by.items()} for cache, by in found.items()}
    print(json.dumps({
        "megabytes": round(megabytes, 1), "runs": options.runs, "idle_s": options.idle_s, "present": options.present, "hot_ms": round(hot, 1),
        "first_token_ms": {cache: {name: round(value, 1) for name, value in by.items()} for cache, by in middle.items()},
        "more_ms": {cache: {way: round(by[way] - by["clear"], 1) for way in ("encrypted", "ready")} for cache, by in middle.items()},
        "ratio": {cache: {way: round(by[way] / by["clear"], 3) for way in ("encrypted", "ready")} for cache, by in middle.items()},
        "decryption_gb_per_s": round(rate / 1e9, 1), "aim_more_ms": round(1.3 * megabytes * 1e9 / rate, 1),
    }, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
