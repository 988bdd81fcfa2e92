"""LangChain's agent over Anthropic's Messages: a tool, whole and streamed, and a typed answer."""

import sys

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from pydantic import BaseModel

model = ChatAnthropic(model=sys.argv[1], max_retries=0)
question = {"messages": [("user", "Please call the tool.")]}


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def forecast(town: str) -> str:
    """Tell the weather."""
    return "sun"


agent = create_agent(model, [forecast])
assert len(list(agent.stream(question, stream_mode="messages"))) > 2
assert model.with_structured_output(Person, method="json_schema").invoke("Who?")
print(agent.invoke(question)["messages"][-1].content)
