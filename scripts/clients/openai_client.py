"""What people do with the `openai` package, checked against a server whose address is given."""

import sys

import openai

MODEL = "ref-tiny"
CHAT = [
    {"role": "system", "content": "你是一个助手。"},
    {"role": "user", "content": [{"type": "text", "text": "今天天气怎么样？"}]},
]


def check(name, condition, found=""):
    if not condition:
        sys.exit(f"FAILED {name}: {found!r}")
    print(f"ok     {name}")


def refused(call, kind):
    try:
        call()
    except kind as error:
        return error
    sys.exit(f"FAILED: no {kind.__name__}")


def whole_and_stream(client):
    settings = dict(model=MODEL, messages=CHAT, max_completion_tokens=50, temperature=0)
    whole = client.chat.completions.create(**settings)
    choice = whole.choices[0]
    check("whole answer", choice.finish_reason == "length" and choice.message.content, whole)
    check("usage", whole.usage.completion_tokens == 50 and whole.usage.prompt_tokens > 20, whole.usage)

    stream = client.chat.completions.create(
        **settings, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check("stream equals whole answer", text == choice.message.content, text)
    check("role comes first", chunks[0].choices[0].delta.role == "assistant", chunks[0])
    check("finish reason", chunks[-2].choices[0].finish_reason == "length", chunks[-2])
    counted = chunks[-1]
    check("usage in the stream", not counted.choices and counted.usage.completion_tokens == 50, counted)

    with client.chat.completions.stream(**settings) as events:
        helped = "".join(event.delta for event in events if event.type == "content.delta")
    check("stream helper", helped == text, helped)

    stop = text[9:14]
    settings["stop"] = [stop, "没有的话"]
    stopped = client.chat.completions.create(**settings).choices[0]
    check("stop", stopped.message.content == text[: text.index(stop)], stopped)
    check("stop is the reason", stopped.finish_reason == "stop", stopped)


def seeds(client):
    def draw(seed):
        answer = client.chat.completions.create(
            model=MODEL, messages=CHAT, max_tokens=20, temperature=1, top_p=0.9, seed=seed
        )
        return answer.choices[0].message.content

    check("equal seeds repeat", draw(3) == draw(3))
    check("other seeds differ", draw(3) != draw(4))


def completions(client):
    settings = dict(model=MODEL, max_tokens=12, temperature=0)
    whole = client.completions.create(prompt=["从前", "山里"], **settings)
    check("two prompts", [c.index for c in whole.choices] == [0, 1], whole)
    chunks = client.completions.create(prompt="从前", stream=True, **settings)
    text = "".join(chunk.choices[0].text for chunk in chunks)
    check("completion stream", text == whole.choices[0].text, text)
    extra = {"ignore_eos": True, "min_tokens": 12, "top_k": 5}
    more = client.completions.create(prompt="从前", extra_body=extra, **settings)
    check("vLLM's own fields", more.usage.completion_tokens == 12, more.usage)


def errors(client):
    def chat(**more):
        settings = {"model": MODEL, "messages": CHAT, "max_tokens": 5, **more}
        return lambda: client.chat.completions.create(**settings)

    check("models", [model.id for model in client.models.list()] == [MODEL])
    check("one model", client.models.retrieve(MODEL).id == MODEL)
    error = refused(chat(model="gpt-5"), openai.NotFoundError)
    check("unknown model", error.code == "model_not_found" and error.param == "model", error)
    error = refused(chat(temperature=-1), openai.BadRequestError)
    check("bad value", error.param == "temperature", error)
    error = refused(chat(logprobs=True), openai.BadRequestError)
    check("logprobs are refused", error.param == "logprobs", error)
    error = refused(chat(max_tokens=5000), openai.BadRequestError)
    check("context", error.code == "context_length_exceeded", error)
    # One runs, one waits, the third is too many.
    busy = [chat(stream=True, max_tokens=1900)() for _ in range(2)]
    error = refused(chat(), openai.RateLimitError)
    check("full", error.code == "queue_full", error)
    check("retry-after", error.response.headers["retry-after"] == "1", error.response.headers)
    for stream in busy:
        stream.close()
    patient = client.with_options(max_retries=20)
    answer = patient.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=5)
    check("closed streams make room", answer.usage.completion_tokens == 5, answer)


client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=120)
whole_and_stream(client)
seeds(client)
completions(client)
errors(client)
