#!/usr/bin/env python3
"""What the activator costs on the way, beside nginx and haproxy, in one run: POST of about 300 bytes, one worker thread each, the same
trivial upstream behind all of them.

    scripts/release
    benches/hop.py [--hop PROGRAM] [--runs 5] [--seconds 3] [--json FILE]

The activator parses and checks each request, asks the scaler, accounts for it, and speaks HTTP/1.1 or 2 to its runtime; nginx and haproxy relay to a
Unix socket by HTTP/1.1, and so does `relay`, which is the activator's libraries and nothing else. `direct` is the upstream itself. Runs of all
take turns. Beside rates and medians it says how long each computes for a request, itself and in the kernel: where the cores are shared, that says
most. Needs wrk, nginx and haproxy (Debian's packages of these names); one that is missing is left out with a word, or fails where CI=true.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).resolve().parent.parent / "target"))
# What scripts/release has built.
HOP = next(TARGET.glob("profiled/*-*/release/examples/hop"), None)
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "What is a lighthouse? " * 10}], "max_tokens": 12, "seed": 1})
NGINX = """
daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream up {{ server unix:{socket}; keepalive 64; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""
HAPROXY = """
global
    nbthread 1
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
    http-reuse always
listen hop
    bind 127.0.0.1:{port}
    server up unix@{socket}
"""
SCRIPT = 'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = %s\n'


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def computed(pid):
    """Seconds that a process has computed, itself and in the kernel."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return [int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:13]]


def only_child(pid):
    """That of a process that has one, or is about to."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if children := pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(children[0])
        time.sleep(0.01)
    sys.exit(f"process {pid} has started no other")


def load(address, pid, connections, seconds, script):
    """Requests a second, the median, and what the process computes for each, itself and in the kernel, in microseconds."""
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, f"http://{address}/v1/chat/completions"]
    before = computed(pid)
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    requests = int(re.search(r"(\d+) requests in", said)[1])
    took = [(after - before) / requests * 1e6 for before, after in zip(before, computed(pid))]
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"{address} did not answer as it should:\n{said}")
    number, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", said).groups()
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit], *took


def peers(folder, socket):
    started = {}
    for name, text, command in [("nginx", NGINX, ["nginx", "-c"]), ("haproxy", HAPROXY, ["haproxy", "-f"])]:
        program = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            if os.environ.get("CI") == "true":
                sys.exit(f"{name} is missing: apt-get install {name}")
            print(f"skipped: {name} is not here (apt-get install {name})", file=sys.stderr)
            continue
        port = free_port()
        config = folder / f"{name}.conf"
        # Started by root, nginx works as a user who may not enter the folder.
        user = "user root;" if os.getuid() == 0 else ""
        config.write_text(text.format(folder=folder, socket=socket, port=port, user=user))
        process = subprocess.Popen([program, *command[1:], str(config)], stderr=subprocess.DEVNULL)
        started[name] = (process, f"127.0.0.1:{port}")
    return started


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=3)
    arguments.add_argument("--hop", type=pathlib.Path, default=HOP, help="the program, if it is another than the one of scripts/release")
    arguments.add_argument("--json", type=pathlib.Path)
    asked = arguments.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    hop = asked.hop
    if hop is None or not hop.exists():
        sys.exit(f"{hop or 'the hop'} is not there; build it first: scripts/release")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        socket, script = folder / "up.sock", folder / "post.lua"
        script.write_text(SCRIPT % json.dumps(BODY))
        upstream = subprocess.Popen([hop, "upstream", socket], stdout=subprocess.PIPE, text=True)
        direct = upstream.stdout.readline().strip()
        ours = subprocess.Popen([hop, "serve"], stdout=subprocess.PIPE, text=True)
        api = ours.stdout.readline().split()[0]
        relay = subprocess.Popen([hop, "relay", socket], stdout=subprocess.PIPE, text=True)
        bare = relay.stdout.readline().strip()
        others = peers(folder, socket)
        asked_of = {"direct": (direct, upstream.pid), "pilotlight": (api, ours.pid), "relay": (bare, relay.pid)}
        try:
            # nginx has a worker.
            asked_of |= {n: (address, only_child(p.pid) if n == "nginx" else p.pid) for n, (p, address) in others.items()}
            table = measure(asked_of, asked, script)
        finally:
            for process in [ours, relay, upstream, *(process for process, _ in others.values())]:
                process.send_signal(signal.SIGINT)
            for process in [ours, relay, upstream, *(process for process, _ in others.values())]:
                process.wait(20)
    report(table)
    if asked.json:
        asked.json.write_text(json.dumps(table, indent=1))


def measure(asked_of, asked, script):
    for address, pid in asked_of.values():
        load(address, pid, 8, 1, script)
    seen = {(name, connections): [] for name in asked_of for connections in (1, 64)}
    for _ in range(asked.runs):
        for connections in (1, 64):
            for name, (address, pid) in asked_of.items():
                seen[name, connections].append(load(address, pid, connections, asked.seconds, script))
    medians = {}
    for (name, connections), runs in seen.items():
        rate, median, own, kernel = (round(statistics.median(values), 1) for values in zip(*runs))
        row = {"requests_per_s": round(rate), "p50_us": median, "own_us": own, "kernel_us": kernel}
        medians.setdefault(name, {})[connections] = row
    return medians


def report(table):
    print(f"{'':12}{'1 connection':>40}{'64 connections':>42}")
    for name, row in table.items():
        cells = [f"{row[n]['requests_per_s']:>9} /s {row[n]['p50_us']:>7} us {row[n]['own_us']:>6} +{row[n]['kernel_us']:>6}" for n in (1, 64)]
        print(f"{name:12}{cells[0]:>40}{cells[1]:>42}")
    print("(medians: requests a second, their median, and microseconds computed for each, itself and in the kernel)")
    ours, direct, nginx = table["pilotlight"], table["direct"], table.get("nginx")
    if nginx:
        added = [ours[1]["p50_us"] - direct[1]["p50_us"], nginx[1]["p50_us"] - direct[1]["p50_us"]]
        print(f"added to the median by one connection: pilotlight {added[0]:.0f} us, nginx {added[1]:.0f} us")
        for n in (1, 64):
            print(f"requests a second beside nginx, {n} connections: {ours[n]['requests_per_s'] / nginx[n]['requests_per_s']:.2f} x")


if __name__ == "__main__":
    main()
