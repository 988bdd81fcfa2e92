"""AutoGen: an agent with a tool, whole and streamed; it names who sent each message."""

import asyncio
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

ABOUT = {
    "vision": True,
    "function_calling": True,
    "json_output": True,
    "family": "unknown",
    "structured_output": True,
}


async def forecast(town: str) -> str:
    """Tell the weather."""
    return "sun"


async def main():
    client = OpenAIChatCompletionClient(model=sys.argv[1], model_info=ABOUT)
    for stream in (False, True):
        agent = AssistantAgent(
            "a", client, tools=[forecast], reflect_on_tool_use=True, model_client_stream=stream
        )
        said = (await agent.run(task="Please call the tool.")).messages[-1].content
    print(said)


asyncio.run(main())
