"""What applications do with the official client: chat and completion, streaming and not, from zero each; and errors.

usage: openai_client.py BASE_URL SLOTS_URL MODEL EMBEDDER CALLER
"""

import json
import sys
import time
import typing
import urllib.request

import openai
import pydantic

base_url, slots_url, model, embedder, caller = sys.argv[1:]
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
    assert [entry.id for entry in client.models.list()] == [model, embedder, caller]
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


class Ship(pydantic.BaseModel):
    name: typing.Literal["Hope", "Endurance"]
    masts: int = pydantic.Field(ge=1, le=4)


def structured_output():
    answer = client.chat.completions.parse(model=model, messages=QUESTION, response_format=Ship, max_tokens=60, seed=1)
    ship = answer.choices[0].message.parsed
    assert ship.name in ("Hope", "Endurance") and 1 <= ship.masts <= 4, answer
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, response_format={"type": "json_object"}, max_tokens=200, temperature=0,
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict), answer


def tools_are_refused_where_the_template_has_none():
    tool = openai.pydantic_function_tool(Ship, name="launch")
    try:
        client.chat.completions.create(model=model, messages=QUESTION, tools=[tool])
    except openai.BadRequestError as error:
        assert error.body["param"] == "tools" and "template" in error.body["message"], error.body
    else:
        raise AssertionError("no error")


def tools():
    tool = openai.pydantic_function_tool(Ship, name="launch")
    call = dict(model=caller, messages=QUESTION, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=150)
    message = client.chat.completions.create(**call, seed=3).choices[0].message
    (made,) = message.tool_calls
    assert made.function.name == "launch" and message.content is None, message
    Ship.model_validate_json(made.function.arguments)
    with client.chat.completions.stream(**call, seed=3) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls", final
    assert final.message.tool_calls[0].function.arguments == made.function.arguments, final
    result = {"role": "tool", "tool_call_id": made.id, "content": "launched"}
    messages = [*QUESTION, message.model_dump(exclude_none=True), result]
    client.chat.completions.create(model=caller, messages=messages, tools=[tool], max_tokens=4)


def embeddings():
    texts = ["a lighthouse", "a tower with a lamp for ships", "bread and butter"]
    answer = client.embeddings.create(model=embedder, input=texts)
    vectors = [item.embedding for item in answer.data]
    assert [len(vector) for vector in vectors] == [384] * 3 and answer.usage.prompt_tokens > 0, answer.usage
    near, far = (sum(a * b for a, b in zip(vectors[0], other)) for other in vectors[1:])
    assert near > far + 0.2, (near, far)
    floats = client.embeddings.create(model=embedder, input=texts[0], encoding_format="float").data[0].embedding
    assert all(abs(a - b) < 1e-6 for a, b in zip(floats, vectors[0]))


for check in (structured_output, tools_are_refused_where_the_template_has_none, tools, embeddings, chat, chat_stream, completion, completion_stream, several_prompts_and_token_ids, sampling_fields, logprobs,
              models, unknown_model, wrong_fields):
    if check in (chat, chat_stream, completion, completion_stream):
        until_cold()
    check()
    print("ok", check.__name__, flush=True)
