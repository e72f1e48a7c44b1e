#!/usr/bin/env python3
"""What the activator costs on the way, beside nginx and haproxy, in one run: POST of about 300 bytes, one worker thread each, the same
trivial upstream behind all of them.

    cargo build --release -p activator --example hop
    benches/hop.py [--runs 5] [--seconds 3] [--json FILE]

The activator parses and checks each request, asks the scaler, accounts for it, and speaks HTTP/1.1 or 2 to its runtime; nginx and haproxy relay to a
Unix socket by HTTP/1.1, and so does `relay`, which is the activator's libraries and nothing else. `direct` is the upstream itself. Runs of all take turns. Needs wrk, nginx and haproxy (Debian's packages of these names);
one that is missing is left out with a word, or fails where CI=true.
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
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


def load(address, connections, seconds, script):
    """Requests a second and the median in microseconds."""
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, f"http://{address}/v1/chat/completions"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"{address} did not answer as it should:\n{said}")
    number, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", said).groups()
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


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
    arguments.add_argument("--json", type=pathlib.Path)
    asked = arguments.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    hop = target / "release/examples/hop"
    if not hop.exists():
        sys.exit("build it first: cargo build --release -p activator --example hop")
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
        addresses = {"direct": direct, "pilotlight": api, "relay": bare, **{name: address for name, (_, address) in others.items()}}
        try:
            table = measure(addresses, asked, script)
        finally:
            for process in [ours, relay, upstream, *(process for process, _ in others.values())]:
                process.send_signal(signal.SIGINT)
            for process in [ours, relay, upstream, *(process for process, _ in others.values())]:
                process.wait(20)
    report(table)
    if asked.json:
        asked.json.write_text(json.dumps(table, indent=1))


def measure(addresses, asked, script):
    for address in addresses.values():
        load(address, 8, 1, script)
    seen = {(name, connections): [] for name in addresses for connections in (1, 64)}
    for _ in range(asked.runs):
        for connections in (1, 64):
            for name, address in addresses.items():
                seen[name, connections].append(load(address, connections, asked.seconds, script))
    medians = {}
    for (name, connections), runs in seen.items():
        rate, median = (statistics.median(values) for values in zip(*runs))
        medians.setdefault(name, {})[connections] = {"requests_per_s": round(rate), "p50_us": round(median, 1)}
    return medians


def report(table):
    print(f"{'':12}{'1 connection':>24}{'64 connections':>26}")
    for name, row in table.items():
        cells = [f"{row[n]['requests_per_s']:>10} /s {row[n]['p50_us']:>8} us" for n in (1, 64)]
        print(f"{name:12}{cells[0]:>24}{cells[1]:>26}")
    ours, direct, nginx = table["pilotlight"], table["direct"], table.get("nginx")
    if nginx:
        added = [ours[1]["p50_us"] - direct[1]["p50_us"], nginx[1]["p50_us"] - direct[1]["p50_us"]]
        print(f"added to the median by one connection: pilotlight {added[0]:.0f} us, nginx {added[1]:.0f} us")
        for n in (1, 64):
            print(f"requests a second beside nginx, {n} connections: {ours[n]['requests_per_s'] / nginx[n]['requests_per_s']:.2f} x")


if __name__ == "__main__":
    main()
