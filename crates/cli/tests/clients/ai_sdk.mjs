// The Vercel AI SDK with its three kinds of providers, in two steps with a tool. Usage: node ai_sdk.mjs BASE_URL
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const baseURL = process.argv[2];
const id = "seed-5.7m";
const openai = createOpenAI({ baseURL, apiKey: "none" });
const inputSchema = jsonSchema({ type: "object", properties: { place: { enum: ["park", "house"] } }, required: ["place"], additionalProperties: false });
const tools = { go: tool({ description: "Go there.", inputSchema, execute: async ({ place }) => `It rains in the ${place}.` }) };
const single = { openai: { parallelToolCalls: false }, farthing: { parallel_tool_calls: false }, anthropic: { disableParallelToolUse: true } };

const models = {
  chat: openai.chat(id),
  compatible: createOpenAICompatible({ name: "farthing", baseURL, supportsStructuredOutputs: true })(id),
  anthropic: createAnthropic({ baseURL, apiKey: "none" })(id),
  responses: openai(id),
};
for (const [name, model] of Object.entries(models)) {
  const common = { model, prompt: "Go to the park.", maxOutputTokens: 300, maxRetries: 0 };
  const steps = {
    ...common,
    tools,
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? { type: "tool", toolName: "go" } : "none" }),
    providerOptions: single,
  };
  const streamed = streamText({ ...steps, onError: ({ error }) => { throw error; } });
  await streamed.consumeStream({ onError: (error) => { throw error; } });
  for (const done of [await generateText(steps), { steps: await streamed.steps }]) {
    assert.equal(done.steps.length, 2, name);
    assert.equal(done.steps[0].finishReason, "tool-calls", name);
    assert.ok(["park", "house"].includes(done.steps[0].toolCalls[0].input.place), name);
    assert.ok(["stop", "length"].includes(done.steps[1].finishReason), name);
  }
  const shaped = await generateText({ ...common, output: Output.object({ schema: inputSchema }) });
  assert.ok(["park", "house"].includes(shaped.output.place), name);
  await assert.rejects(generateText({ ...common, prompt: "cat ".repeat(5000) }), (e) => APICallError.isInstance(e) && /prompt is too long/.test(e.message), name);
}

// The default provider sends a reference to its earlier answer instead of the text.
const asks = (content) => ({ role: "user", content });
const common = { model: models.responses, maxOutputTokens: 20, maxRetries: 0 };
const first = await generateText({ ...common, messages: [asks("Hello.")] });
const next = await generateText({ ...common, messages: [asks("Hello."), ...first.response.messages, asks("And then?")] });
assert.match(JSON.stringify(next.request.body), /item_reference/);
console.log("the AI SDK is content");
