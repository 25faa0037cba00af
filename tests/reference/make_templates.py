#!/usr/bin/env python3
"""Render the chat templates of tests/templates.rs as Hugging Face's `apply_chat_template` does.

usage: make_templates.py [DIR]          DIR: tests/fixtures/templates beside this folder
needs: pip install transformers jinja2   (made with transformers 5.24)

DIR/<name>.jinja are templates of our own, with the constructs of the families that they are named after; DIR/cases.json
says what each makes of some conversations: a text, or what it raises.
"""
import json
import sys
from pathlib import Path

import jinja2
from transformers.tokenization_utils_base import _normalize_chat_messages
from transformers.utils.chat_template_utils import render_jinja_template

SPECIAL = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's weather: <b>sun</b> & \"rain\", größe 東京",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 1e-5}},
            "required": ["city"],
        },
    },
}


def said(role, content, **more):
    return dict(role=role, content=content, **more)


def call(city, **more):
    arguments = dict(city=city, days=2, exact=True, least=0.5, none=None)
    return dict(type="function", function=dict(name="weather", arguments=arguments), **more)


HELLO = [said("user", " Hello, 'you'! ")]
SYSTEM = [said("system", "Be kind.\n"), *HELLO]
TALK = [*SYSTEM, said("assistant", "Hi.", reasoning_content="They greet me.\n"), said("user", "And now?")]
TOOLS = [
    *SYSTEM,
    said("assistant", None, tool_calls=[call("東京", id="abcdefghi")], reasoning="A call will do."),
    said("tool", '{"sky": "blue"}', tool_call_id="abcdefghi", name="weather"),
    said("tool", "still blue", tool_call_id="abcdefghi", name="weather"),
]
ODD = [said("user", "one"), said("user", "two")]
LAST = [said("assistant", "I speak first.")]

CONVERSATIONS = [HELLO, SYSTEM, TALK, TOOLS, ODD, LAST]


def case(name, source, messages, tools, documents, generation, **kwargs):
    asked = dict(template=name, messages=messages, tools=tools, documents=documents, generation=generation, variables=kwargs)
    try:
        [text], _ = render_jinja_template(
            conversations=[_normalize_chat_messages(messages)],
            tools=tools,
            documents=documents,
            chat_template=source,
            add_generation_prompt=generation,
            **SPECIAL,
            **kwargs,
        )
        return asked | dict(text=text)
    except jinja2.exceptions.TemplateError as error:
        return asked | dict(raises=str(error))


def main(folder):
    cases = []
    # none of the cases depends on the day
    day = dict(date_string="26 Jul 2024")
    for path in sorted(folder.glob("*.jinja")):
        source, name = path.read_text(), path.stem
        for messages in CONVERSATIONS:
            for tools in (None, [WEATHER]):
                cases.append(case(name, source, messages, tools, None, True, **day))
        documents = [dict(title="A", text="One."), dict(title="B", text="Two.")]
        cases.append(case(name, source, TALK, None, documents, False, enable_thinking=False, **day))
    (folder / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    raised = sum("raises" in case for case in cases)
    print(f"{len(cases)} cases, {raised} of which raise")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "fixtures/templates")
