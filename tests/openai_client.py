"""What applications do with the official client: chat and completion, streaming and not, from zero each; and errors.

usage: openai_client.py BASE_URL SLOTS_URL MODEL
"""

import json
import sys
import time
import urllib.request

import openai

base_url, slots_url, model = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120)
# The first words of the greedy answer are certain: the reference's margins are wide there.
QUESTION = [{"role": "user", "content": "Write one sentence about the sea."}]
BEGINNING = "The sea is a"


def until_cold():
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        with urllib.request.urlopen(slots_url, timeout=10) as answer:
            slots = json.load(answer)
        slots = slots["slots"] if isinstance(slots, dict) else slots
        if [slot["state"] for slot in slots if slot["name"] == model] == ["cold"]:
            return
        time.sleep(0.02)
    raise AssertionError("never cold again")


def chat():
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=16, stop=" a ")
    assert answer.choices[0].message.content == BEGINNING[: -len(" a")], answer
    assert answer.choices[0].finish_reason == "stop", answer
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens == 37 and answer.usage.total_tokens == 37 + answer.usage.completion_tokens
    assert answer.timings["cold"] is True and answer.timings["first_token_ms"] > 0, answer


def chat_stream():
    text, finish, usage, timings = "", None, None, None
    stream = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=16, stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        usage = chunk.usage or usage
        timings = getattr(chunk, "timings", None) or timings
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text.startswith(BEGINNING) and finish == "length", (text, finish)
    assert usage.prompt_tokens == 37 and usage.completion_tokens == 16, usage
    assert timings["cold"] is True and timings["restore_ms"] > 0, timings


def completion():
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0)
    assert answer.choices[0].finish_reason == "length", answer
    assert answer.usage.completion_tokens == 12 and answer.choices[0].text, answer


def completion_stream():
    whole = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0)
    stream = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, stream=True)
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def several_prompts_and_token_ids():
    answer = client.completions.create(model=model, prompt=["One", "Two"], max_tokens=3)
    assert [choice.index for choice in answer.choices] == [0, 1], answer
    answer = client.completions.create(model=model, prompt=[504, 3575, 282, 4649], max_tokens=3)
    assert answer.usage.prompt_tokens == 4, answer


def sampling_fields():
    fields = dict(
        model=model, messages=QUESTION, max_completion_tokens=16, temperature=0.8, top_p=0.9, seed=7, stop=["\n\n"],
        presence_penalty=0.1, frequency_penalty=0.1, user="somebody",
        extra_body={"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.05, "not_a_field": 1},
    )
    first, second = (client.chat.completions.create(**fields) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content, "a seed reproduces"


def logprobs():
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 4 and all(len(entry.top_logprobs) == 3 for entry in content), content
    assert all(entry.logprob <= 0 and bytes(entry.bytes).decode() == entry.token for entry in content), content


def models():
    assert [entry.id for entry in client.models.list()] == [model]
    assert client.models.retrieve(model).object == "model"


def unknown_model():
    for call in (
        lambda: client.models.retrieve("nobody"),
        lambda: client.chat.completions.create(model="nobody", messages=QUESTION),
    ):
        try:
            call()
        except openai.NotFoundError as error:
            assert error.body["code"] == "model_not_found" and "nobody" in error.body["message"], error.body
        else:
            raise AssertionError("no error")


def wrong_fields():
    for field, wrong in {"temperature": "hot", "max_tokens": -1, "messages": "hello", "stream": "yes"}.items():
        body = {"model": model, "messages": QUESTION, field: wrong}
        try:
            client.post("/chat/completions", body=body, cast_to=object)
        except openai.BadRequestError as error:
            assert field in error.body["message"] and error.body["type"] == "invalid_request_error", error.body
        else:
            raise AssertionError(f"no error for {field}")


for check in (chat, chat_stream, completion, completion_stream, several_prompts_and_token_ids, sampling_fields, logprobs,
              models, unknown_model, wrong_fields):
    if check in (chat, chat_stream, completion, completion_stream):
        until_cold()
    check()
    print("ok", check.__name__, flush=True)
