// Anthropic's SDK for JavaScript: a stream, and its tool runner.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ maxRetries: 0 });
const asked = { model: process.argv[2], max_tokens: 500, messages: [{ role: "user", content: "Please call the tool." }] };
const forecast = { name: "forecast", description: "Tell the weather.", input_schema: { type: "object", properties: {} } };
const run = async () => "sun";
await client.messages.stream(asked).finalMessage();
const message = await client.beta.messages.toolRunner({ ...asked, tools: [{ ...forecast, run, parse: (given) => given }] });
console.log(message.content[0].text);
