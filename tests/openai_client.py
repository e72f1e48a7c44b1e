"""What applications do with the official client: chat and completion, streaming and not, from zero each; and errors.

usage: openai_client.py BASE_URL SLOTS_URL MODEL EMBEDDER CALLER
"""

import asyncio
import base64
import json
import struct
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


LAMP = {
    "type": "function",
    "function": {
        "name": "switch_lamp",
        "parameters": {
            "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False,
        },
    },
}  # fmt: skip
LAUNCH = openai.pydantic_function_tool(Ship, name="launch")


def checked(call):
    assert call.type == "function" and call.id, call
    arguments = json.loads(call.function.arguments)
    if call.function.name == "launch":
        Ship.model_validate(arguments)
    else:
        assert call.function.name == "switch_lamp" and isinstance(arguments["on"], bool), call
    return call


def json_objects():
    """An object, or the beginning of one where the budget ends it."""
    for seed in range(3):
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, response_format={"type": "json_object"}, max_tokens=120, temperature=0.9, seed=seed,
        )
        text, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert text.startswith("{") and finish in ("stop", "length"), answer
        if finish == "stop":
            assert isinstance(json.loads(text), dict), answer
        else:
            try:
                json.loads(text)
            except json.JSONDecodeError as error:
                # What is wrong with a prefix is its end: a string that is open, or a word that is not whole.
                rest = text[error.pos :]
                assert "Unterminated" in error.msg or len(rest) < 6, (text, error)


def several_choices():
    fields = dict(model=model, messages=QUESTION, n=3, max_tokens=6, temperature=1, seed=5)
    answer = client.chat.completions.create(**fields)
    assert [choice.index for choice in answer.choices] == [0, 1, 2], answer
    whole = [choice.message.content for choice in answer.choices]
    assert len(set(whole)) > 1 and answer.usage.completion_tokens <= 18, answer
    streamed, finishes = [""] * 3, {}
    for chunk in client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason
    assert streamed == whole and set(finishes) == {0, 1, 2} and all(finishes.values()), (streamed, finishes)


def streamed_logprobs():
    fields = dict(model=model, messages=QUESTION, temperature=0, max_tokens=5, logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**fields).choices[0].logprobs.content
    parts = []
    for chunk in client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            parts += choice.logprobs.content if choice.logprobs else []
    assert [part.model_dump() for part in parts] == [entry.model_dump() for entry in whole], (parts, whole)
    assert all(part.top_logprobs[0].logprob >= part.logprob - 1e-6 for part in parts), parts


def completion_logprobs():
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=5, temperature=0, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text, answer
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == 5, logprobs
    assert all(token in top and 2 <= len(top) <= 3 for token, top in zip(logprobs.tokens, logprobs.top_logprobs)), logprobs
    assert logprobs.text_offset[0] == 0 and logprobs.text_offset[1] == len(logprobs.tokens[0]), logprobs


def prompts_given_back():
    fields = dict(model=model, prompt="The capital of France is Paris.", echo=True, logprobs=1)
    answer = client.completions.create(**fields, max_tokens=0)
    choice, logprobs = answer.choices[0], answer.choices[0].logprobs
    assert choice.text == fields["prompt"] == "".join(logprobs.tokens) and choice.finish_reason == "length", answer
    assert logprobs.token_logprobs[0] is None and all(score <= 0 for score in logprobs.token_logprobs[1:]), logprobs
    parts = [chunk.choices[0] for chunk in client.completions.create(**fields, max_tokens=3, temperature=0, stream=True)]
    assert parts[0].text == fields["prompt"] and parts[0].logprobs.tokens == logprobs.tokens, parts
    assert sum(len(part.logprobs.tokens) for part in parts if part.logprobs) == len(logprobs.tokens) + 3, parts


def tools_of_a_template_without_a_place_for_them():
    call = dict(model=model, messages=QUESTION, tools=[LAUNCH, LAMP], max_tokens=80, temperature=0)
    choice = client.chat.completions.create(**call, tool_choice="required").choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    (made,) = map(checked, choice.message.tool_calls)
    plain = client.chat.completions.create(**{**call, "tools": openai.NOT_GIVEN, "max_tokens": 1}).usage.prompt_tokens
    told = client.chat.completions.create(**{**call, "max_tokens": 1}, tool_choice="auto").usage.prompt_tokens
    assert told > plain + 50, "the tools are in the prompt"
    result = {"role": "tool", "tool_call_id": made.id, "content": "done"}
    messages = [*QUESTION, choice.message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(**{**call, "messages": messages, "max_tokens": 8}, tool_choice="none")
    assert answer.choices[0].message.content and answer.choices[0].message.tool_calls is None, answer


def tools():
    call = dict(model=caller, messages=QUESTION, tools=[LAUNCH], tool_choice="required", parallel_tool_calls=False, max_tokens=150)
    message = client.chat.completions.create(**call, seed=3).choices[0].message
    (made,) = map(checked, message.tool_calls)
    assert made.function.name == "launch" and message.content is None, message
    with client.chat.completions.stream(**call, seed=3) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls", final
    assert final.message.tool_calls[0].function.arguments == made.function.arguments, final
    result = {"role": "tool", "tool_call_id": made.id, "content": "launched"}
    messages = [*QUESTION, message.model_dump(exclude_none=True), result]
    before = client.chat.completions.create(model=caller, messages=QUESTION, tools=[LAUNCH], max_tokens=4, seed=1)
    answer = client.chat.completions.create(model=caller, messages=messages, tools=[LAUNCH], max_tokens=4, seed=1)
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "length", answer
    assert answer.usage.prompt_tokens > before.usage.prompt_tokens + 10, "call and result are in the prompt"


def tool_choices():
    call = dict(model=caller, messages=QUESTION, tools=[LAUNCH, LAMP], max_tokens=120)
    named = {"type": "function", "function": {"name": "switch_lamp"}}
    choice = client.chat.completions.create(**call, tool_choice=named, seed=2).choices[0]
    (made,) = map(checked, choice.message.tool_calls)
    assert made.function.name == "switch_lamp" and choice.finish_reason == "tool_calls", choice
    for free in ("auto", "none"):
        message = client.chat.completions.create(**{**call, "max_tokens": 8}, tool_choice=free, seed=2).choices[0].message
        assert message.content and not message.tool_calls, "random weights call nothing of themselves"
    try:
        client.chat.completions.create(**call, tool_choice={"type": "function", "function": {"name": "nobody"}})
    except openai.BadRequestError as error:
        assert error.body["param"] == "tool_choice.function.name", error.body
    else:
        raise AssertionError("no error")


def parallel_calls():
    call = dict(model=caller, messages=QUESTION, tools=[LAMP], tool_choice="required", max_tokens=200, seed=1)
    message = client.chat.completions.create(**call).choices[0].message
    assert len(message.tool_calls) > 1 and len({made.id for made in message.tool_calls}) == len(message.tool_calls), message
    # The last may be cut short.
    for made in message.tool_calls[:-1]:
        checked(made)
    names, arguments = {}, {}
    for chunk in client.chat.completions.create(**call, stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            names[part.index] = names.get(part.index, "") + (part.function.name or "")
            arguments[part.index] = arguments.get(part.index, "") + (part.function.arguments or "")
    whole = [(made.function.name, made.function.arguments) for made in message.tool_calls]
    assert [(names[i], arguments[i]) for i in sorted(names)] == whole, (names, arguments, whole)


def asynchronous():
    async def ask():
        async with openai.AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120) as many:
            fields = dict(model=model, messages=QUESTION, temperature=0, max_tokens=8)
            answers = await asyncio.gather(*(many.chat.completions.create(**fields) for _ in range(4)))
            text = ""
            async for chunk in await many.chat.completions.create(**fields, stream=True):
                text += chunk.choices[0].delta.content or ""
            return {answer.choices[0].message.content for answer in answers} | {text}

    (text,) = asyncio.run(ask())
    assert text.startswith(BEGINNING), text


def embeddings():
    texts = ["a lighthouse", "a tower with a lamp for ships", "bread and butter"]
    answer = client.embeddings.create(model=embedder, input=texts)
    vectors = [item.embedding for item in answer.data]
    assert [len(vector) for vector in vectors] == [384] * 3 and answer.usage.prompt_tokens > 0, answer.usage
    near, far = (sum(a * b for a, b in zip(vectors[0], other)) for other in vectors[1:])
    assert near > far + 0.2, (near, far)
    floats = client.embeddings.create(model=embedder, input=texts[0], encoding_format="float").data[0].embedding
    assert all(abs(a - b) < 1e-6 for a, b in zip(floats, vectors[0]))
    packed = client.embeddings.create(model=embedder, input=texts[0], encoding_format="base64", dimensions=384).data[0].embedding
    assert [value for (value,) in struct.iter_unpack("<f", base64.b64decode(packed))] == floats
    try:
        client.embeddings.create(model=embedder, input=texts[0], dimensions=64)
    except openai.BadRequestError as error:
        assert error.body["param"] == "dimensions", error.body
    else:
        raise AssertionError("no error")


FROM_ZERO = (chat, chat_stream, completion, completion_stream)
WARM = (
    structured_output, json_objects, several_choices, streamed_logprobs, completion_logprobs, prompts_given_back,
    tools_of_a_template_without_a_place_for_them, tools, tool_choices, parallel_calls, asynchronous, embeddings,
    several_prompts_and_token_ids, sampling_fields, logprobs, models, unknown_model, wrong_fields,
)  # fmt: skip

for check in (*WARM, *FROM_ZERO):
    if check in FROM_ZERO:
        until_cold()
    check()
    print("ok", check.__name__, flush=True)
