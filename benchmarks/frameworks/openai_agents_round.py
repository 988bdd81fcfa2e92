"""OpenAI's Agents SDK: a tool, streamed, and one in a conversation that goes on by the response's id."""

import asyncio
import sys

from agents import Agent, Runner, function_tool


@function_tool
def forecast(town: str) -> str:
    """Tell the weather."""
    return "sun"


async def main():
    agent = Agent(name="a", instructions="Be brief.", model=sys.argv[1], tools=[forecast])
    stream = Runner.run_streamed(agent, "Please call the tool.")
    async for _ in stream.stream_events():
        pass
    assert stream.final_output
    print((await Runner.run(agent, "Please call the tool.", auto_previous_response_id=True)).final_output)


asyncio.run(main())
