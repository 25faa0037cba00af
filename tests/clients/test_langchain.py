"""LangChain's standard tests of a chat model against a running server.

SWITCHBACK_URL is the server's address, http://127.0.0.1:8080 for example, and SWITCHBACK_MODEL a model with a tool
parser. SWITCHBACK_KEY is the API key, if the server asks for one.

Some tests ask for a model that reads its tools and its orders. The demo's does not, so they are marked as expected to
fail, by an assertion or by a parser; an error of the API still fails them. A better model may pass them.
"""

import os

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, ToolMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

# a test of an environment should not report to LangSmith
os.environ["LANGSMITH_TRACING"] = "false"
MODEL = os.environ["SWITCHBACK_MODEL"]
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather at a location.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 7]}},
        "required": ["location", "days"],
        "additionalProperties": False,
    },
}


def of_the_model(reason):
    return pytest.mark.xfail(reason=reason, raises=(AssertionError, OutputParserException), strict=False)


def both_outputs(function):
    # an override loses the parameters of what it overrides
    return pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)(function)


class TestChatCompletions(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {
            "base_url": os.environ["SWITCHBACK_URL"].rstrip("/") + "/v1",
            "model": MODEL,
            "api_key": os.environ.get("SWITCHBACK_KEY", "none"),
            "temperature": 0,
            # a small model that is made to write a call may not find its end
            "max_tokens": 200,
            # what the server refuses is not to be tried again
            "max_retries": 0,
            # without this, the usage of a stream is asked of OpenAI's own address only
            "stream_usage": True,
        }

    @property
    def has_tool_calling(self):
        return True

    @property
    def has_tool_choice(self):
        return True

    @property
    def has_structured_output(self):
        return True

    @property
    def supports_json_mode(self):
        return True

    @property
    def returns_usage_metadata(self):
        return True

    @property
    def supports_model_override(self):
        return True

    @property
    def model_override_value(self):
        return MODEL

    @property
    def supports_image_inputs(self):
        return False

    @property
    def supports_anthropic_inputs(self):
        # LangChain leaves Anthropic's cache_control in a chat's messages, where the server refuses what it does not know
        return False

    @property
    def supported_usage_metadata_details(self):
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream=False):
        chat = ChatOpenAI(**self.chat_model_params)
        prompt = "Hello, where is my order A-12345? " * 4
        # equal beginnings of prompts are found from the second request on
        chat.invoke(prompt)
        if not stream:
            answer = chat.invoke(prompt)
        else:
            chunks = list(chat.stream(prompt))
            answer = sum(chunks[1:], chunks[0])
        assert answer.usage_metadata["input_token_details"]["cache_read"] > 0
        return answer

    @of_the_model("the demo's model adds its own keys to arguments that may have them, and finds no end")
    @both_outputs
    def test_tool_calling(self, model):
        super().test_tool_calling(model)

    @of_the_model("the demo's model adds its own keys to arguments that may have them, and finds no end")
    async def test_tool_calling_async(self, model):
        await super().test_tool_calling_async(model)

    @of_the_model("the demo's model adds its own keys to arguments that may have them, and calls twice")
    def test_tool_calling_with_no_arguments(self, model):
        super().test_tool_calling_with_no_arguments(model)

    @of_the_model("the demo's model writes no Chinese")
    def test_unicode_tool_call_integration(self, model):
        super().test_unicode_tool_call_integration(model)

    @of_the_model("the demo's model calls no tool by its own choice")
    @both_outputs
    def test_agent_loop(self, model):
        super().test_agent_loop(model)

    @of_the_model("the demo's model writes JSON with its own keys, whatever the prompt asks for")
    def test_json_mode(self, model):
        super().test_json_mode(model)

    # What is marked above, with schemas that leave even a small model no choice.

    @pytest.mark.parametrize("choice", ["any", "get_weather"])
    def test_demanded_call_keeps_to_its_schema(self, model, choice):
        bound = model.bind_tools([WEATHER], tool_choice=choice, parallel_tool_calls=False)
        chunks = list(bound.stream("Hello"))
        for answer in [bound.invoke("Hello"), sum(chunks[1:], chunks[0])]:
            (call,) = answer.tool_calls
            assert not answer.invalid_tool_calls and call["id"] and call["name"] == "get_weather"
            assert set(call["args"]) == {"location", "days"} and call["args"]["days"] in (1, 7)

    def test_loop_of_a_demanded_call(self, model):
        asked = model.bind_tools([WEATHER], tool_choice="any", parallel_tool_calls=False).invoke("Hello")
        assert isinstance(asked, AIMessage)
        told = ToolMessage("It is sunny.", tool_call_id=asked.tool_calls[0]["id"])
        answer = model.bind_tools([WEATHER]).invoke([("human", "Hello"), asked, told])
        assert answer.text


class TestResponses(TestChatCompletions):
    @property
    def chat_model_params(self):
        return super().chat_model_params | {"use_responses_api": True}

    @property
    def supports_anthropic_inputs(self):
        return True
