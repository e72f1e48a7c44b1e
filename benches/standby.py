#!/usr/bin/env python3
"""What standby processes cost while nobody asks: processor time and private memory of each, over a minute.

    benches/standby.py --snapshot MODEL.snapshot [--standbys 10] [--seconds 60]

Then two of them are given the same model under two names, and it is shown how much of their memory they share (proportional set size).
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cold_start import MODEL, Ours, chat, get, stream  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid):
    threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sorted({int(child) for thread in threads for child in (thread / "children").read_text().split()})


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rollup(pid):
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}


def private(memory):
    return memory["Private_Clean"] + memory["Private_Dirty"]


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshot", required=True)
    parser.add_argument("--pilotlight", default=str(root / "target/release/pilotlight"), help="the program [%(default)s]")
    parser.add_argument("--standbys", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    server = Ours(options.pilotlight, options.snapshot, 2, [
        "--standby", str(options.standbys), "--model", f"other={options.snapshot}",
        # A confined process shows its smaps to root alone.
        "--no-confine"], idle="60s")
    try:
        give_up = time.monotonic() + 30
        while len(descendants(server.process.pid)) < options.standbys and time.monotonic() < give_up:
            time.sleep(0.05)
        time.sleep(1)
        pids = descendants(server.process.pid)
        before = {pid: cpu_s(pid) for pid in pids}
        activator = cpu_s(server.process.pid)
        time.sleep(options.seconds)
        used = [cpu_s(pid) - before[pid] for pid in pids]
        memory = [private(rollup(pid)) for pid in pids]
        report = {
            "standbys": len(pids), "seconds": options.seconds,
            "cpu_s_all_standbys": sum(used), "cpu_s_activator": cpu_s(server.process.pid) - activator,
            "private_mb_each": {"median": statistics.median(memory) / 1e6, "most": max(memory) / 1e6},
        }
        chat(server.port, 8)
        stream(server.port, "/v1/chat/completions", {
            "model": "other", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})
        slots = json.loads(get(server.admin, "/slots")[1])
        bytes_of_file = os.path.getsize(options.snapshot)
        report["two_replicas_of_mb"] = bytes_of_file / 1e6
        report["replicas"] = []
        for slot in slots:
            memory = rollup(slot["replicas"][0]["pid"])
            report["replicas"].append({
                "name": slot["name"], "resident_mb": memory["Rss"] / 1e6, "proportional_mb": memory["Pss"] / 1e6,
                "private_mb": private(memory) / 1e6,
            })
        print(json.dumps(report, indent=2))
    finally:
        server.close()


if __name__ == "__main__":
    main()
