"""Asks the gateway by way of litellm, and prints what came of it as one JSON object.

Run by ``test_litellm.py`` with an interpreter that has litellm; takes the gateway's URL and a key.
"""

import json
import os
import sys
import traceback

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch the newest from the network

import litellm

URL, KEY, PNG = sys.argv[1:]
litellm.suppress_debug_info = True
litellm.drop_params = False
litellm.telemetry = False

SCHEMA = {
    "type": "object",
    "properties": {"town": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "forecast", "description": "Tell", "parameters": SCHEMA}}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a penstock?"},
]


def ask(form, upstream, name, messages=CONVERSATION, **more):
    """``form``: the provider that litellm takes the gateway for, and so the dialect that it speaks."""
    return litellm.completion(
        model=f"{form}/{upstream}/{name}",
        messages=messages,
        api_base=URL if form == "anthropic" else URL + "/v1",
        api_key=KEY,
        max_tokens=200,
        num_retries=0,
        max_retries=0,
        **more,
    )


def plain(form, upstream):
    answer = ask(form, upstream, "plain")
    return {"text": answer.choices[0].message.content, "output": answer.usage.completion_tokens}


def stream(form, upstream):
    chunks = list(ask(form, upstream, "plain", stream=True))
    return {"text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks), "chunks": len(chunks)}


def tool(form, upstream):
    messages = [{"role": "user", "content": "Please call the tool."}]
    said = ask(form, upstream, "plain", messages, tools=[TOOL]).choices[0].message
    (call,) = said.tool_calls
    messages += [said, {"role": "tool", "tool_call_id": call.id, "content": "Sun."}]
    answer = ask(form, upstream, "plain", messages, tools=[TOOL]).choices[0]
    return {"name": call.function.name, "arguments": call.function.arguments, "text": answer.message.content}


def thinking_tool(form, upstream):
    messages = [{"role": "user", "content": "Please call the tool, thinking."}]
    said = ask(form, upstream, "thinking", messages, tools=[TOOL]).choices[0].message
    messages += [said, {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "Sun."}]
    answer = ask(form, upstream, "thinking", messages, tools=[TOOL]).choices[0]
    return {"reasoning": said.reasoning_content, "text": answer.message.content}


def streamed_tool(form, upstream):
    messages = [{"role": "user", "content": "Please call the tool."}]
    chunks = list(ask(form, upstream, "plain", messages, tools=[TOOL], stream=True))
    (call,) = litellm.stream_chunk_builder(chunks, messages=messages).choices[0].message.tool_calls
    return {"name": call.function.name, "arguments": call.function.arguments}


def structured(form, upstream):
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    return {"text": ask(form, upstream, "plain", response_format=wanted).choices[0].message.content}


def image(form, upstream):
    url = f"data:image/png;base64,{PNG}"
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = ask(form, upstream, "plain", [{"role": "user", "content": parts}])
    return {"text": answer.choices[0].message.content}


def error(name):
    def ask_for_it(form, upstream):
        try:
            ask(form, upstream, name)
        except Exception as found:
            return {"error": type(found).__name__}
        return {"error": None}

    return ask_for_it


def broken_stream(form, upstream):
    text = ""
    try:
        for chunk in ask(form, upstream, "cut", stream=True):
            text += chunk.choices[0].delta.content or ""
    except Exception as found:
        return {"error": type(found).__name__, "text": text}
    return {"error": None, "text": text}


CASES = {
    "plain": plain,
    "stream": stream,
    "tool": tool,
    "thinking_tool": thinking_tool,
    "streamed_tool": streamed_tool,
    "structured": structured,
    "image": image,
    "context-length": error("context-length"),
    "429": error("429"),
    "500": error("500"),
    "unknown": error("no-such"),
    "broken_stream": broken_stream,
}

results = {}
for form in ("openai", "anthropic"):
    for upstream in ("openai", "anthropic"):
        for name, case in CASES.items():
            try:
                results[f"{form} {upstream} {name}"] = case(form, upstream)
            except Exception:
                results[f"{form} {upstream} {name}"] = {"failed": traceback.format_exc()}
json.dump(results, sys.stdout)
