"""Real clients against a running server: python run.py http://127.0.0.1:8080 MODEL [ENCODER]

Each check is one feature through one client, with a name and a verdict; the exit status counts those that failed. What
is not installed is left out and said so. MODEL should have a chat template; checks of tools are left out where it has no
tool parser. The environment's SWITCHBACK_KEY is the API key, if the server asks for one.
"""

import asyncio
import base64
import importlib.util
import os
import struct
import sys
import traceback

# without this, LiteLLM asks the network for prices
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
BASE, MODEL = sys.argv[1].rstrip("/"), sys.argv[2]
ENCODER = sys.argv[3] if len(sys.argv) > 3 else None
KEY = os.environ.get("SWITCHBACK_KEY", "none")
TOOL = {
    "type": "function",
    "function": {
        "name": "order_status",
        "description": "The status of an order",
        "parameters": {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]},
    },
}
ASK = [{"role": "user", "content": "Where is my order A-12345?"}]
CHECKS = []


class Skip(Exception):
    """A check that says nothing about this server."""


def check(needs):
    def register(function):
        CHECKS.append((function.__name__, needs, function))
        return function

    return register


def openai_client():
    import openai

    return openai.OpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)


def without_tools(error):
    if "tool_parser" in str(error):
        raise Skip("the version has no tool parser") from error
    raise error


@check("openai")
def openai_chat_with_choices():
    answer = openai_client().chat.completions.create(model=MODEL, messages=ASK, n=3, max_tokens=8, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@check("openai")
def openai_stream_is_the_whole_answer():
    ask = dict(model=MODEL, messages=ASK, max_tokens=16, seed=1, temperature=0)
    whole = openai_client().chat.completions.create(**ask).choices[0].message.content
    stream = openai_client().chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole and chunks[-1].usage.completion_tokens > 0


@check("openai")
def openai_completion_with_best_of():
    answer = openai_client().completions.create(model=MODEL, prompt="hello", best_of=3, n=1, max_tokens=4)
    assert len(answer.choices) == 1


@check("openai")
def openai_errors_are_typed():
    import openai

    for make, kind in [
        (dict(model="nobody", messages=ASK), openai.NotFoundError),
        (dict(model=MODEL, messages=ASK, temperature=9), openai.BadRequestError),
    ]:
        try:
            openai_client().chat.completions.create(**make)
        except kind as error:
            assert error.param
        else:
            raise AssertionError(f"{make} was answered")


@check("openai")
def openai_tools():
    import openai

    for choice in ["auto", "required", {"type": "function", "function": {"name": "order_status"}}]:
        ask = dict(model=MODEL, messages=ASK, tools=[TOOL], tool_choice=choice, max_tokens=32)
        try:
            answer = openai_client().chat.completions.create(**ask)
        except openai.BadRequestError as error:
            without_tools(error)
        for call in answer.choices[0].message.tool_calls or []:
            assert call.id.startswith("call_") and call.function.name
        list(openai_client().chat.completions.create(**ask, stream=True))


@check("openai")
def openai_responses():
    client = openai_client()
    response = client.responses.create(model=MODEL, input="Where is my order?", instructions="Be brief.", max_output_tokens=24)
    assert response.output_text is not None and response.usage.output_tokens > 0
    history = [{"role": "user", "content": "Where is my order?"}]
    history += [item.model_dump(exclude_none=True) for item in response.output]
    client.responses.create(model=MODEL, input=history + [{"role": "user", "content": "And now?"}], max_output_tokens=8)


@check("openai")
def openai_responses_stream():
    with openai_client().responses.stream(model=MODEL, input="Hello", max_output_tokens=16) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response() if kinds[-1] == "response.completed" else None
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert final is None or final.output_text is not None


@check("openai")
def openai_embeddings():
    if not ENCODER:
        raise Skip("no encoder was named")
    client = openai_client()
    whole = client.embeddings.create(model=ENCODER, input=["one", "two"])
    raw = client.embeddings.create(model=ENCODER, input="one", encoding_format="base64").data[0].embedding
    data = base64.b64decode(raw) if isinstance(raw, str) else None
    floats = list(struct.unpack(f"<{len(data) // 4}f", data)) if data else raw
    assert max(abs(a - b) for a, b in zip(floats, whole.data[0].embedding)) < 1e-6


@check("anthropic")
def anthropic_messages():
    import anthropic

    client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
    ask = dict(model=MODEL, max_tokens=16, messages=ASK)
    message = client.messages.create(**ask, system="Be brief.", stop_sequences=["END"])
    assert message.role == "assistant" and message.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        assert text == "".join(b.text for b in stream.get_final_message().content if b.type == "text")
    assert client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens > 0
    try:
        client.messages.create(model="nobody", max_tokens=1, messages=ASK)
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error"


@check("anthropic")
def anthropic_tools():
    import anthropic

    client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
    function = TOOL["function"]
    tool = {"name": function["name"], "description": function["description"], "input_schema": function["parameters"]}
    try:
        client.messages.create(
            model=MODEL, max_tokens=32, messages=ASK, tools=[tool], tool_choice={"type": "tool", "name": tool["name"]}
        )
    except anthropic.BadRequestError as error:
        without_tools(error)


@check("langchain_openai")
def langchain_chat():
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=f"{BASE}/v1", api_key=KEY, model=MODEL, max_tokens=16, max_retries=0)
    assert isinstance(chat.invoke("Hello").content, str)
    assert "".join(chunk.content for chunk in chat.stream("Hello")) is not None
    assert len(chat.batch(["a", "b"])) == 2
    try:
        chat.bind_tools([TOOL]).invoke("Where is my order A-12345?")
    except Exception as error:
        without_tools(error)


@check("litellm")
def litellm_completion():
    import litellm

    ask = dict(model=f"openai/{MODEL}", api_base=f"{BASE}/v1", api_key=KEY, messages=ASK, max_tokens=8)
    assert litellm.completion(**ask).choices[0].message.content is not None
    assert list(litellm.completion(**ask, stream=True))


@check("instructor")
def instructor_model():
    import instructor
    from pydantic import BaseModel

    class Order(BaseModel):
        order: str

    client = instructor.from_openai(openai_client(), mode=instructor.Mode.TOOLS)
    try:
        client.chat.completions.create(model=MODEL, messages=ASK, response_model=Order, max_retries=0, max_tokens=32)
    except Exception as error:
        # a small model need not keep to a schema; that the request is taken is what counts
        if "tool_parser" in str(error):
            raise Skip("the version has no tool parser") from error
        if "400" in str(error):
            raise


@check("pydantic_ai")
def pydantic_ai_agent():
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{BASE}/v1", api_key=KEY))
    result = asyncio.run(Agent(model).run("Hello", model_settings={"max_tokens": 16}))
    assert isinstance(result.output, str)


def main():
    failed = 0
    for name, needs, function in CHECKS:
        if importlib.util.find_spec(needs) is None:
            print(f"skipped  {name}: {needs} is not installed")
            continue
        try:
            function()
            print(f"ok       {name}")
        except Skip as why:
            print(f"skipped  {name}: {why}")
        except Exception:
            failed += 1
            print(f"FAILED   {name}\n{traceback.format_exc()}")
    sys.exit(min(failed, 100))


main()
