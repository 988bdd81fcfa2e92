"""OpenAI's SDK: structured output, a stream of a response, and a conversation that goes on by the response's id."""

import sys

import openai
from pydantic import BaseModel

model = sys.argv[1]
client = openai.OpenAI(max_retries=0)


class Person(BaseModel):
    name: str
    age: int


question = [{"role": "user", "content": "Who?"}]
assert (
    client.chat.completions.parse(model=model, messages=question, response_format=Person)
    .choices[0]
    .message.parsed
)
with client.responses.stream(model=model, input="Who?", text_format=Person) as stream:
    first = stream.until_done().get_final_response()
assert first.output_parsed
print(client.responses.create(model=model, input="And then?", previous_response_id=first.id).output_text)
