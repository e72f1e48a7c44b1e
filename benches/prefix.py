#!/usr/bin/env python3
"""A long system prompt that was computed at seal time: first token from zero beside that of the same question without one.

    benches/prefix.py --model MODEL.gguf [--runs 7] [--words 470]

Seals the model with `--prefix` (a system prompt of about `--words` words) and without, serves both, and asks each from zero by turns, page
cache warm: the question behind the system prompt, sealed and not sealed, and the question alone.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cold_start import MODEL, QUESTION, Ours, of_model, stream  # noqa: E402

WORDS = "keep the lamp clean and the log true say what you know and what you do not and never let a ship wait for an answer".split()


def ask(server, system):
    messages = ([{"role": "system", "content": system}] if system is not None else []) + [{"role": "user", "content": QUESTION}]
    return stream(server.port, "/v1/chat/completions", {
        "model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0, "cache_prompt": True,
    })


def main():
    parser = of_model(__doc__)
    parser.add_argument("--words", type=int, default=470)
    options = parser.parse_args()
    system = " ".join(WORDS[i * i % len(WORDS)] for i in range(options.words))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "system.json").write_text(json.dumps([{"role": "system", "content": system}]))
        seal = [options.pilotlight, "seal", options.model, "-o"]
        subprocess.run([*seal, str(folder / "with"), "--prefix", str(folder / "system.json")], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*seal, str(folder / "without")], check=True, stdout=subprocess.DEVNULL)
        sealed = Ours(options.pilotlight, str(folder / "with"), options.threads)
        plain = Ours(options.pilotlight, str(folder / "without"), options.threads)
        ways = {"sealed": (sealed, system), "computed": (plain, system), "empty": (plain, "")}
        seconds = {name: [] for name in ways}
        tokens, texts = {}, {}
        try:
            for run in range(-1, options.runs):
                for name, (server, prompt) in ways.items():
                    server.until_cold()
                    answer = ask(server, prompt)
                    tokens[name], texts[name] = answer.usage["prompt_tokens"], answer.text
                    # The first run of each warms the page cache, and is when the file is verified.
                    if run >= 0:
                        seconds[name].append(answer.first_s)
        finally:
            sealed.close()
            plain.close()
    if texts["sealed"] != texts["computed"]:
        sys.exit(f"the answers differ: {texts}")
    middle = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
    print(json.dumps({
        "runs": options.runs, "prompt_tokens": tokens, "first_token_ms": middle,
        "sealed_more_than_empty_ms": middle["sealed"] - middle["empty"],
    }, indent=2))


if __name__ == "__main__":
    main()
