// The official JavaScript client against a running server. Usage: node openai_client.mjs BASE_URL
// It does not check what it is sent, so shapes are checked here, field by field.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Tell me a story about a cat." }];

/** Every field there, of its type, and none besides. `?` = may be null. */
function shape(value, wanted, at = "answer") {
  if (typeof wanted === "string") {
    const optional = wanted.endsWith("?");
    if (optional && value === null) return;
    assert.equal(typeof value, optional ? wanted.slice(0, -1) : wanted, at);
  } else if (Array.isArray(wanted)) {
    assert.ok(Array.isArray(value), at);
    value.forEach((v, i) => shape(v, wanted[0], `${at}[${i}]`));
  } else {
    assert.deepEqual(Object.keys(value).sort(), Object.keys(wanted).sort(), at);
    for (const key of Object.keys(wanted)) shape(value[key], wanted[key], `${at}.${key}`);
  }
}
const head = { id: "string", object: "string", created: "number", model: "string", system_fingerprint: "string" };
const usage = {
  prompt_tokens: "number", completion_tokens: "number", total_tokens: "number",
  prompt_tokens_details: { cached_tokens: "number" }, completion_tokens_details: { reasoning_tokens: "number" },
  prompt_cache_hit_tokens: "number", prompt_cache_miss_tokens: "number",
};
/** Where the cache ended is told where it is known. */
function counted(answer) {
  if (answer.usage) delete answer.usage.prompt_cache_differs_at;
  return answer;
}
const token = { token: "string", logprob: "number", bytes: ["number"] };
const logprobs = { content: [{ ...token, top_logprobs: [token] }], refusal: "object" };

const models = await client.models.list();
assert.equal(models.data.length, 1);
const model = models.data[0].id;

const plain = await client.chat.completions.create({ model, messages, max_tokens: 20, temperature: 0 });
const message = { role: "string", content: "string", refusal: "object" };
shape(counted(plain), { ...head, usage, choices: [{ index: "number", message, logprobs: "object", finish_reason: "string" }] });
const text = plain.choices[0].message.content;

const scored = await client.chat.completions.create({ model, messages, max_tokens: 4, temperature: 0, logprobs: true, top_logprobs: 2 });
shape(counted(scored), { ...head, usage, choices: [{ index: "number", message, logprobs, finish_reason: "string" }] });

let joined = "";
let last;
const stream = await client.chat.completions.create({ model, messages, max_tokens: 20, temperature: 0, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  assert.equal(chunk.object, "chat.completion.chunk");
  for (const choice of chunk.choices) {
    shape({ ...choice, delta: undefined }, { index: "number", delta: "undefined", logprobs: "object", finish_reason: "string?" });
    joined += choice.delta.content ?? "";
  }
  last = chunk;
}
assert.equal(joined, text);
shape(counted(last).usage, usage);

const completion = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 5, temperature: 0, logprobs: 1 });
shape(counted(completion), {
  ...head,
  usage,
  choices: [{ index: "number", text: "string", finish_reason: "string", logprobs: { tokens: ["string"], token_logprobs: ["number"], text_offset: ["number"], top_logprobs: completion.choices[0].logprobs.top_logprobs.map(() => "object").slice(0, 1) } }],
});
let continued = "";
for await (const chunk of await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 5, temperature: 0, stream: true })) {
  continued += chunk.choices[0].text;
}
assert.equal(continued, completion.choices[0].text);

// The helper that gathers a stream, and its abort.
const gathered = await client.chat.completions.stream({ model, messages, max_tokens: 20, temperature: 0 }).finalContent();
assert.equal(gathered, text);
const aborted = client.chat.completions.stream({ model, messages, max_tokens: 1900, logit_bias: { 1: -100 } });
aborted.on("content", () => aborted.abort());
await assert.rejects(aborted.done(), OpenAI.APIUserAbortError);

// Calls: the helper that gathers their pieces, and the one that runs them.
const parameters = { type: "object", properties: { place: { enum: ["park", "house"] } }, required: ["place"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "go", parameters, strict: true } }];
const called = await client.chat.completions.stream({ model, messages, tools, tool_choice: "required", parallel_tool_calls: false, temperature: 0 }).finalChatCompletion();
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.ok(["park", "house"].includes(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).place));

// Responses.
const response = await client.responses.create({ model, input: "Tell me a story about a cat.", temperature: 0 });
assert.equal(response.status, "completed");
const gatheredResponse = await client.responses.stream({ model, input: "Tell me a story about a cat.", temperature: 0 }).finalResponse();
assert.equal(gatheredResponse.output_text, response.output_text);

// Batches.
const line = { custom_id: "one", method: "POST", url: "/v1/chat/completions", body: { model, messages, max_tokens: 5, temperature: 0 } };
const file = await client.files.create({ file: await toFile(Buffer.from(JSON.stringify(line)), "in.jsonl"), purpose: "batch" });
let batch = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
while (batch.status !== "completed") {
  await new Promise((done) => setTimeout(done, 50));
  batch = await client.batches.retrieve(batch.id);
}
const result = JSON.parse(await (await client.files.content(batch.output_file_id)).text());
assert.equal(result.response.body.usage.completion_tokens, 5);

await assert.rejects(client.chat.completions.create({ model, messages, temperature: 9 }), (e) => {
  assert.ok(e instanceof OpenAI.BadRequestError);
  assert.equal(e.param, "temperature");
  assert.match(e.message, /temperature is 9; it must be a number from 0 to 2/);
  return true;
});
await assert.rejects(client.chat.completions.create({ model: "gpt-4", messages }), OpenAI.NotFoundError);
console.log("openai for JavaScript is content");
