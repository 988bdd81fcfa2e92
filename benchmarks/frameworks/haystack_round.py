"""Haystack: an agent with a tool, over chat completions and over responses, streamed."""

import sys
from typing import Annotated

from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import tool


@tool
def forecast(town: Annotated[str, "where"]) -> str:
    """Tell the weather."""
    return "sun"


for made in (OpenAIChatGenerator, OpenAIResponsesChatGenerator):
    agent = Agent(
        chat_generator=made(model=sys.argv[1]), tools=[forecast], streaming_callback=lambda chunk: None
    )
    said = agent.run(messages=[ChatMessage.from_user("Please call the tool.")])["messages"][-1].text
print(said)
