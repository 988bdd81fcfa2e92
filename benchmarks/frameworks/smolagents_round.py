"""smolagents: a model, plain and streamed, and an agent that calls tools."""

import os
import sys

from smolagents import OpenAIServerModel, ToolCallingAgent, tool


@tool
def forecast(town: str) -> str:
    """Tell the weather.

    Args:
        town: where
    """
    return "sun"


model = OpenAIServerModel(sys.argv[1], api_base=os.environ["OPENAI_BASE_URL"], api_key="any")
question = [{"role": "user", "content": [{"type": "text", "text": "What is a penstock?"}]}]
assert model(question).content == "".join(each.content or "" for each in model.generate_stream(question))
print(
    ToolCallingAgent(tools=[forecast], model=model, max_steps=2, verbosity_level=0).run(
        "Please call the tool."
    )
)
