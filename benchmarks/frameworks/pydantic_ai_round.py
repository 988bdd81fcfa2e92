"""Pydantic AI: a tool and a typed answer over chat completions, and a stream over responses."""

import asyncio
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

model = sys.argv[1]


class Person(BaseModel):
    name: str
    age: int


def forecast(town: str) -> str:
    """Tell the weather."""
    return "sun"


async def main():
    chat = OpenAIChatModel(model)
    assert (await Agent(chat, tools=[forecast]).run("Please call the tool.")).output
    assert (await Agent(chat, output_type=NativeOutput(Person)).run("Who?")).output
    agent = Agent(OpenAIResponsesModel(model), tools=[forecast])
    async with agent.run_stream("Please call the tool.") as stream:
        print(await stream.get_output())


asyncio.run(main())
