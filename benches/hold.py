#!/usr/bin/env python3
"""Ten thousand requests held on one cold model, and ten thousand cold models: what that costs the activator, and what others notice.

    scripts/release
    benches/hold.py [--hop PROGRAM] [--requests 10000] [--models 10000] [--json FILE]

Runtimes are stand-ins that answer at once (`activator/examples/hop.rs`); one that starts waits for a file before it is ready. Needs as many
descriptors as requests, for this script and for the activator each (ulimit -n).
"""

import argparse
import asyncio
import json
import os
import pathlib
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from hop import HOP


def resident_mb(pid):
    line = next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


class Hop:
    """The activator before stand-ins; gone with the block."""

    def __init__(self, program, models, gate):
        environment = {**os.environ, "HOP_GATE": str(gate)}
        self.process = subprocess.Popen([program, "serve", str(models)], stdout=subprocess.PIPE, text=True, env=environment)
        api, self.admin = self.process.stdout.readline().split()
        self.host, port = api.split(":")
        self.port = int(port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    async def send(self, model):
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "What is a lighthouse? " * 10}], "seed": 1})
        reader, writer = await asyncio.open_connection(self.host, self.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        return reader, writer

    async def answer(self, connection):
        reader, writer = connection
        status = int((await reader.readline()).split()[1])
        await reader.read()
        writer.close()
        return status

    async def slots(self):
        host, port = self.admin.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /slots HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return {slot["name"]: slot for slot in json.loads(answer.split(b"\r\n\r\n", 1)[1])}

    async def ask(self, model):
        began = time.perf_counter()
        status = await self.answer(await self.send(model))
        return status, (time.perf_counter() - began) * 1e3


async def p99(hop, seconds):
    """Of a hot model, in milliseconds."""
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        status, took = await hop.ask("m1")
        assert status == 200, status
        times.append(took)
        await asyncio.sleep(0.002)
    return statistics.quantiles(times, n=100)[98]


async def held(program, count, gate):
    gate.touch()
    with Hop(program, 2, gate) as hop:
        assert (await hop.ask("m1"))[0] == 200
        empty, alone = resident_mb(hop.process.pid), await p99(hop, 3)
        gate.unlink()
        waiting = []
        for _ in range(0, count, 200):
            waiting += await asyncio.gather(*(hop.send("m") for _ in range(min(200, count - len(waiting)))))
        while (await hop.slots())["m"]["held"] < count:
            await asyncio.sleep(0.05)
        over, _ = await hop.ask("m")
        full, among = resident_mb(hop.process.pid), await p99(hop, 3)
        began = time.perf_counter()
        gate.touch()
        statuses = await asyncio.gather(*(hop.answer(connection) for connection in waiting))
        took = time.perf_counter() - began
        return {
            "held": len(waiting), "resident_mb_before": round(empty, 1), "resident_mb_held": round(full, 1), "one_more": over,
            "answered": statuses.count(200), "answered_within_s": round(took, 2),
            "hot_p99_ms_alone": round(alone, 2), "hot_p99_ms_meanwhile": round(among, 2),
        }


async def models(program, count, gate):
    gate.touch()
    wake = {}
    for number in (1, count):
        with Hop(program, number, gate) as hop:
            resident = resident_mb(hop.process.pid)
            last = "m" if number == 1 else f"m{number - 1}"
            status, took = await hop.ask(last)
            assert status == 200, status
            wake[number] = {"models": number, "resident_mb": round(resident, 1), "wake_ms": round(took, 1)}
    return list(wake.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--hop", type=pathlib.Path, default=HOP, help="the program, if it is another than the one of scripts/release")
    parser.add_argument("--json", type=pathlib.Path)
    asked = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    hop = asked.hop
    if hop is None or not hop.exists():
        sys.exit(f"{hop or 'the hop'} is not there; build it first: scripts/release")
    with tempfile.TemporaryDirectory() as folder:
        gate = pathlib.Path(folder) / "gate"
        seen = {"models": asyncio.run(models(hop, asked.models, gate)), "held": asyncio.run(held(hop, asked.requests, gate))}
    print(json.dumps(seen, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(seen, indent=1))


if __name__ == "__main__":
    main()
