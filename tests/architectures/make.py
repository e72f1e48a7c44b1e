"""Writes tiny random models as complete Hugging Face folders, with `golden.json`: what transformers computes for the folder.

The reference is of the model as loaded again from the folder in float32: a model that has been `.to(bfloat16)` in memory has
its rotary frequencies rounded, too, and is another model than the one in the files.
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers
from models import ENCODERS, MODELS
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests/golden/llama3-tiny"
PROMPTS = [5, 33, 90]
GREEDY = 24
EAGER = dict(attn_implementation="eager")


def make(name, folder):
    kind, arguments, dtype, options = (MODELS | ENCODERS)[name]
    torch.manual_seed(sum(map(ord, name)))
    config = kind(**arguments)
    auto = transformers.AutoModel if name in ENCODERS else transformers.AutoModelForCausalLM
    model = auto.from_config(config, **EAGER)
    randomise(model)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="60KB" if options.get("shard") else "5GB")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder / file)
    # The reference is of the folder as transformers writes it; what is changed after is only how it is written down.
    golden = embeddings(folder, config) if name in ENCODERS else continuations(folder)
    if rename := options.get("rename"):
        path = folder / "model.safetensors"
        save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    if edit := options.get("edit"):
        written = json.loads((folder / "config.json").read_text())
        edit(written)
        (folder / "config.json").write_text(json.dumps(written, indent=1))
    (folder / "golden.json").write_text(json.dumps(golden))


def randomise(model):
    """Weights that make every part of the model move the logits, and attention look at more than one place."""
    for name, weight in model.named_parameters():
        with torch.no_grad():
            if weight.dim() == 1:
                centre = 0.0 if "bias" in name or "gemma" in type(model).__name__.lower() else 1.0
                weight.copy_(centre + 0.2 * torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) * 1.1 / weight.shape[-1] ** 0.5)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        scale = 1.0 if "gemma" not in type(model).__name__.lower() else embedding.shape[-1] ** -0.5
        embedding.copy_(torch.randn_like(embedding) * scale)
        output = model.get_output_embeddings()
        head = embedding if output is None else output.weight
        if head is not embedding:
            head.copy_(torch.randn_like(head) * 2.0 / head.shape[-1] ** 0.5)


def write_golden(folder, prompts=None):
    (folder / "golden.json").write_text(json.dumps(continuations(folder, prompts)))


SOURCE = f"transformers {transformers.__version__}, float32, CPU, loaded from this folder"


@torch.no_grad()
def embeddings(folder, config):
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, **EAGER).eval()
    generator = torch.Generator().manual_seed(7)
    cases = []
    for n in (1, 7, 128):
        ids = torch.randint(2, config.vocab_size, (n,), generator=generator)
        rows = model(ids[None]).last_hidden_state[0]
        vector = torch.nn.functional.normalize(rows.mean(0), dim=0)
        cases.append({"ids": ids.tolist(), "embedding": vector.tolist()})
    return {"source": SOURCE, "cases": cases}


def continuations(folder, prompts=None):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **EAGER).eval()
    generator = torch.Generator().manual_seed(7)
    prompts = prompts or [torch.randint(2, model.config.vocab_size, (n,), generator=generator).tolist() for n in PROMPTS]
    cases = [case(model, prompt) for prompt in prompts]
    return {"source": SOURCE, "cases": cases}


@torch.no_grad()
def case(model, prompt):
    logits = model(torch.tensor([prompt])).logits[0]
    positions = list(range(0, len(prompt), max(1, len(prompt) // 7)))
    ids, margins = greedy(model, prompt)
    return {
        "prompt_ids": prompt,
        "last_logits": [round(x, 5) for x in logits[-1].tolist()],
        "positions": positions,
        "top5_per_position": [top(logits[p], 5) for p in positions],
        "greedy_ids": ids,
        "greedy_margins": margins,
    }


def greedy(model, prompt):
    """Each token from the whole sequence anew, no cache."""
    ids, margins = list(prompt), []
    for _ in range(GREEDY):
        logits = model(torch.tensor([ids])).logits[0, -1]
        values, order = logits.topk(2)
        ids.append(order[0].item())
        margins.append(round((values[0] - values[1]).item(), 5))
    return ids[len(prompt):], margins


def top(logits, k):
    values, order = logits.topk(k)
    return [[i, round(v, 4)] for i, v in zip(order.tolist(), values.tolist())]


def main(folder, names):
    for name in names or MODELS | ENCODERS:
        place = pathlib.Path(folder) / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make(name, place)
        print(f"made {place}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
