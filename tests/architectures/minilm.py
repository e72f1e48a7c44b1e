"""Writes tests/golden/minilm.json: what all-MiniLM-L6-v2 gives, by transformers in float32 with sentence-transformers' pooling.

Usage: minilm.py FOLDER   (the model's folder, as scripts/test-models fetches it)
"""

import json
import pathlib
import sys

import torch
import transformers

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden/minilm.json"
TEXTS = [
    "The lighthouse is dark until a ship comes.",
    "A pilot light is the small flame that stays on so that the burner can be off.",
    "hello",
    "HELLO, world!! (again?) 1,234.56 — e=mc²",
    "Ein Leuchtturm steht am Meer, und niemand schläft.",
    "Café naïve façade résumé",
    "灯台は船が来るまで暗い。",
    "🚢🌊 ships and waves",
    "a " * 120,
    "word" * 60,
    "def restore(snapshot):\n    return map(snapshot)\n",
    " ".join(f"The {n}th keeper wrote in the log that the lamp was cold." for n in range(18)),
]


def main(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    cases = []
    for text in TEXTS:
        ids = tokenizer(text, truncation=True, max_length=256, padding=False)["input_ids"]
        with torch.no_grad():
            rows = model(torch.tensor([ids])).last_hidden_state[0]
        vector = torch.nn.functional.normalize(rows.mean(0), dim=0)
        cases.append({"text": text, "ids": ids, "embedding": [round(x, 6) for x in vector.tolist()]})
    source = f"transformers {transformers.__version__}, float32, CPU; mean pooling, normalised"
    OUT.write_text(json.dumps({"source": source, "cases": cases}) + "\n")
    print(OUT, [len(case["ids"]) for case in cases])


if __name__ == "__main__":
    main(sys.argv[1])
