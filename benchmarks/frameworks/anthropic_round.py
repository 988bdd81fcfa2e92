"""Anthropic's SDK: its tool runner, plain and streamed, and structured output."""

import sys

import anthropic
from pydantic import BaseModel

model = sys.argv[1]
client = anthropic.Anthropic(max_retries=0)
question = [{"role": "user", "content": "Please call the tool."}]


class Person(BaseModel):
    name: str
    age: int


@anthropic.beta_tool
def forecast(town: str) -> str:
    """Tell the weather.

    Args:
        town: where
    """
    return "sun"


asked = {"model": model, "max_tokens": 500, "messages": question}
turns = [list(turn) for turn in client.beta.messages.tool_runner(**asked, tools=[forecast], stream=True)]
assert len(turns) == 2
assert client.messages.parse(**asked, output_format=Person).parsed_output
print(client.beta.messages.tool_runner(**asked, tools=[forecast]).until_done().content[0].text)
