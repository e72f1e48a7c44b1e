"""500 random JSON schemas and prompts at temperature 1: no answer breaks its schema. Fixed seeds.

usage: structured_client.py BASE_URL MODEL
"""

import collections
import concurrent.futures
import json
import random
import sys

import jiter
import jsonschema
import openai

base_url, model = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=300)
REQUESTS = 500
# What the tiny model's context of 512 leaves behind the longest prompt.
BUDGET = 460
# Every fifth answer is cut on purpose, so that beginnings are judged, too.
CUT_EVERY, CUT = 5, 12
WORDS = ["lamp", "keeper", "fog", "ship", "quay", "größe", "a b", "x\"y"]


def schema(rng, depth=0):
    simple = [text, number, flag, choice, constant]
    return rng.choice(simple if depth > 2 else simple + [record, record, sequence])(rng, depth)


def text(rng, _):
    kinds = [
        {"maxLength": rng.randint(1, 12)},
        {"minLength": 2, "maxLength": rng.randint(2, 9)},
        {"pattern": "^[a-c]{2,5}$"},
        {"pattern": "^(on|off)-[0-9]{1,3}$"},
        {"format": "date"},
    ]
    return {"type": "string", **rng.choice(kinds)}


def number(rng, _):
    low = rng.randint(-50, 50)
    bounds = {"minimum": low, "maximum": low + rng.randint(0, 500)}
    return rng.choice([{"type": "integer", **bounds}, {"type": "integer", "minimum": 0, "maximum": 9}])


def flag(_, __):
    return {"type": ["boolean", "null"]}


def choice(rng, _):
    return {"enum": rng.sample([*WORDS, 1, 2.5, None, True], rng.randint(1, 5))}


def constant(rng, _):
    return {"const": rng.choice(WORDS)}


def sequence(rng, depth):
    least = rng.randint(0, 2)
    return {"type": "array", "items": schema(rng, depth + 1), "minItems": least, "maxItems": least + rng.randint(0, 2)}


def record(rng, depth):
    names = rng.sample(WORDS[:6], rng.randint(1, 4))
    required = rng.sample(names, rng.randint(0, len(names)))
    properties = {name: schema(rng, depth + 1) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def wanted(number):
    rng = random.Random(number)
    whole = record(rng, 0)
    if number % 7 == 0:
        whole = {"$defs": {"part": whole}, "type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 2}
    return whole, [rng.randrange(2, 700) for _ in range(rng.randint(1, 40))]


def relaxed(schema):
    """What a part of an answer keeps: without its end nothing is long, large or complete enough."""
    if not isinstance(schema, dict):
        return schema
    left_out = {"required", "minItems", "minimum", "enum"}
    kept = {key: value for key, value in schema.items() if key not in left_out}
    for key in ["items"]:
        if key in kept:
            kept[key] = relaxed(kept[key])
    for key in ["properties", "$defs"]:
        if key in kept:
            kept[key] = {name: relaxed(value) for name, value in kept[key].items()}
    return kept


def generate(number, form, prompt, budget):
    """The answer's text and how it ended: half of them as completions, half as chats."""
    if number % 2 == 0:
        answer = client.completions.create(
            model=model, prompt=prompt, temperature=1, seed=number, max_tokens=budget, extra_body={"guided_json": form},
        )
        return answer.choices[0].text, answer.choices[0].finish_reason
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": f"lamp {number}"}], temperature=1, seed=number,
        max_completion_tokens=budget,
        response_format={"type": "json_schema", "json_schema": {"name": "form", "schema": form, "strict": True}},
    )
    return answer.choices[0].message.content, answer.choices[0].finish_reason


def ask(number):
    """How the answer ended; raises where it breaks its schema, or begins so that it must."""
    form, prompt = wanted(number)
    is_cut = number % CUT_EVERY == 0
    text, finish_reason = generate(number, form, prompt, CUT if is_cut else BUDGET)
    try:
        if finish_reason == "length":
            # Incomplete strings and keys are left out; what cannot become JSON raises.
            jsonschema.validate(jiter.from_json(text.encode(), partial_mode=True), relaxed(form))
        else:
            jsonschema.validate(json.loads(text), form)
    except Exception as error:
        raise AssertionError(f"request {number}: {text!r} for {json.dumps(form)}: {error}") from error
    return finish_reason, is_cut


def main():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ends = collections.Counter(pool.map(ask, range(REQUESTS)))
    whole, begun = ends["stop", False], ends["length", True]
    print(f"{whole + ends['stop', True]} of {REQUESTS} answers are valid; {begun} were cut on purpose and begin validly")
    # Schemas are small: all but a few get their end where they are given room, and hardly any in a dozen tokens.
    asked = REQUESTS - REQUESTS // CUT_EVERY
    assert whole >= 0.98 * asked and begun >= 0.5 * (REQUESTS - asked) and sum(ends.values()) == REQUESTS, ends
    print("ok structured")


main()
