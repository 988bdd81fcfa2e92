// Vercel's AI SDK: a typed answer, a tool, and a stream of one, over chat completions and over responses.
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { z } from "zod";

const provider = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const name = process.argv[2];
const forecast = tool({ inputSchema: z.object({ town: z.string() }), execute: async () => "sun" });
for (const model of [provider.chat(name), provider.responses(name)]) {
  const asked = { model, maxRetries: 0, prompt: "Please call the tool.", tools: { forecast }, stopWhen: stepCountIs(3) };
  await generateObject({ model, maxRetries: 0, prompt: "Who?", schema: z.object({ name: z.string() }) });
  const whole = await generateText(asked);
  const streamed = streamText(asked);
  for await (const part of streamed.fullStream) if (part.type === "error") throw part.error;
  if (whole.steps.length !== 2 || (await streamed.steps).length !== 2) throw new Error("the tool was not called");
  console.log(whole.text);
}
