// OpenAI's SDK for Node against a running server: node run.mjs http://127.0.0.1:8080 MODEL [ENCODER]
//
// Each check is one feature, with a name and a verdict; the exit status counts those that failed. MODEL should have a
// chat template; checks of tools are left out where it has no tool parser. The environment's SWITCHBACK_KEY is the API
// key, if the server asks for one.

import assert from "node:assert/strict";
import OpenAI from "openai";

if (process.argv.length < 4) {
  console.error("node run.mjs URL MODEL [ENCODER]");
  process.exit(101);
}
const [base, MODEL, ENCODER] = process.argv.slice(2);
const options = { baseURL: `${base.replace(/\/+$/, "")}/v1`, apiKey: process.env.SWITCHBACK_KEY ?? "none" };
// what the server refuses is not to be tried again
const client = new OpenAI({ ...options, maxRetries: 0 });
const ASK = [{ role: "user", content: "Where is my order A-12345?" }];
// a schema with room for little more than the answer, so that a small model finds its end
const ORDER = {
  type: "object",
  properties: { order: { type: "string", pattern: "^[A-Z]-[0-9]{5}$" }, urgent: { type: "boolean" } },
  required: ["order", "urgent"],
  additionalProperties: false,
};
const TOOL = {
  type: "function",
  function: { name: "order_status", description: "The status of an order", parameters: ORDER },
};

// A check that says nothing about this server.
class Skip extends Error {}

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

function keepsToOrder(text) {
  const order = JSON.parse(text);
  assert.deepEqual(Object.keys(order).sort(), ["order", "urgent"]);
  assert.match(order.order, /^[A-Z]-[0-9]{5}$/);
  assert.equal(typeof order.urgent, "boolean");
}

async function withTools(make) {
  try {
    return await make();
  } catch (error) {
    if (String(error).includes("tool_parser")) throw new Skip("the version has no tool parser");
    throw error;
  }
}

const CHECKS = {
  async models_are_listed() {
    const ids = (await all(client.models.list())).map((model) => model.id);
    assert(ids.includes(MODEL), `${ids}`);
    assert.equal((await client.models.retrieve(MODEL)).object, "model");
  },

  async chat_with_choices() {
    const answer = await client.chat.completions.create({ model: MODEL, messages: ASK, n: 3, max_tokens: 8, seed: 1 });
    assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
    const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
    assert.equal(total_tokens, prompt_tokens + completion_tokens);
  },

  async chat_stream_is_the_whole_answer() {
    // warm, so that it is the seed that makes the two equal
    const ask = { model: MODEL, messages: ASK, max_tokens: 24, seed: 7, temperature: 1 };
    const whole = await client.chat.completions.create(ask);
    const include_usage = { stream_options: { include_usage: true } };
    const chunks = await all(await client.chat.completions.create({ ...ask, ...include_usage, stream: true }));
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
  },

  async chat_stream_helper_puts_it_together() {
    const ask = { model: MODEL, messages: ASK, max_tokens: 24, seed: 7 };
    const whole = await client.chat.completions.create(ask);
    const final = await client.chat.completions.stream(ask).finalChatCompletion();
    assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
    assert.equal(final.choices[0].finish_reason, whole.choices[0].finish_reason);
  },

  async chat_stream_can_be_left() {
    const long = { model: MODEL, messages: ASK, max_tokens: 400, ignore_eos: true };
    const stream = await client.chat.completions.create({ ...long, stream: true });
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
    assert(stream.controller.signal.aborted);
    assert((await client.chat.completions.create({ model: MODEL, messages: ASK, max_tokens: 1 })).id);
  },

  async chat_logprobs_are_those_of_the_text() {
    const ask = { model: MODEL, messages: ASK, max_tokens: 6, logprobs: true, top_logprobs: 2 };
    const [choice] = (await client.chat.completions.create(ask)).choices;
    assert.equal(choice.logprobs.content.map((token) => token.token).join(""), choice.message.content);
    for (const token of choice.logprobs.content) assert(token.logprob <= 0 && token.top_logprobs.length === 2);
  },

  async completion_and_its_stream() {
    const ask = { model: MODEL, prompt: "hello", max_tokens: 8, seed: 3 };
    const whole = await client.completions.create(ask);
    assert.equal(whole.object, "text_completion");
    const chunks = await all(await client.completions.create({ ...ask, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join(""), whole.choices[0].text);
    const both = await client.completions.create({ model: MODEL, prompt: ["one", "two"], max_tokens: 2 });
    assert.equal(both.choices.length, 2);
  },

  async structured_output_keeps_to_its_schema() {
    const response_format = { type: "json_schema", json_schema: { name: "order", strict: true, schema: ORDER } };
    const ask = { model: MODEL, messages: ASK, max_tokens: 200, response_format };
    const answer = await client.chat.completions.parse(ask);
    assert.equal(answer.choices[0].finish_reason, "stop");
    keepsToOrder(answer.choices[0].message.content);
    const final = await client.chat.completions.stream(ask).finalChatCompletion();
    assert.equal(final.choices[0].message.content, answer.choices[0].message.content);
  },

  async json_object_is_one() {
    const response_format = { type: "json_object" };
    const answer = await client.chat.completions.create({ model: MODEL, messages: ASK, max_tokens: 200, response_format });
    if (answer.choices[0].finish_reason === "length") throw new Skip("the model found no end");
    assert.equal(typeof JSON.parse(answer.choices[0].message.content), "object");
  },

  async tools_are_called() {
    for (const tool_choice of ["auto", "required", { type: "function", function: { name: "order_status" } }]) {
      const ask = { model: MODEL, messages: ASK, tools: [TOOL], tool_choice, parallel_tool_calls: false, max_tokens: 200 };
      const answer = await withTools(() => client.chat.completions.create(ask));
      const final = await client.chat.completions.stream(ask).finalChatCompletion();
      for (const { message } of [answer.choices[0], final.choices[0]]) {
        assert(tool_choice === "auto" || message.tool_calls.length === 1);
        for (const call of message.tool_calls ?? []) {
          assert(call.id.startsWith("call_") && call.type === "function" && call.function.name === "order_status");
          if (tool_choice !== "auto") keepsToOrder(call.function.arguments);
        }
      }
    }
  },

  async results_of_tools_are_taken() {
    const ask = { model: MODEL, tools: [TOOL], max_tokens: 200 };
    const first = { ...ask, messages: ASK, tool_choice: "required", parallel_tool_calls: false };
    const { message } = (await withTools(() => client.chat.completions.create(first))).choices[0];
    const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "on its way" };
    // the message goes back as it came
    const answer = await client.chat.completions.create({ ...ask, messages: [...ASK, message, result] });
    assert(answer.choices[0].message);
  },

  async responses_whole_and_sent_back() {
    const instructions = "Be brief.";
    const ask = { model: MODEL, input: "Where is my order?", instructions, max_output_tokens: 24 };
    const response = await client.responses.create(ask);
    assert.equal(typeof response.output_text, "string");
    assert(response.usage.output_tokens > 0);
    const input = [{ role: "user", content: ask.input }, ...response.output, { role: "user", content: "And now?" }];
    assert((await client.responses.create({ model: MODEL, input, max_output_tokens: 8 })).id.startsWith("resp_"));
  },

  async responses_stream_is_the_whole_answer() {
    const ask = { model: MODEL, input: "Where is my order?", max_output_tokens: 24, temperature: 0 };
    const whole = await client.responses.create(ask);
    const events = await all(await client.responses.create({ ...ask, stream: true }));
    assert.equal(events[0].type, "response.created");
    assert(["response.completed", "response.incomplete"].includes(events.at(-1).type), events.at(-1).type);
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    assert.equal(deltas.map((event) => event.delta).join(""), whole.output_text);
    assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
  },

  async responses_structured_output() {
    const text = { format: { type: "json_schema", name: "order", strict: true, schema: ORDER } };
    const ask = { model: MODEL, input: ASK[0].content, max_output_tokens: 200, text };
    keepsToOrder((await client.responses.parse(ask)).output_text);
    keepsToOrder((await client.responses.stream(ask).finalResponse()).output_text);
  },

  async responses_call_tools() {
    const tools = [{ type: "function", strict: true, ...TOOL.function }];
    const ask = { model: MODEL, input: ASK[0].content, tools, tool_choice: "required", max_output_tokens: 200 };
    const make = () => client.responses.create({ ...ask, parallel_tool_calls: false });
    const [call] = (await withTools(make)).output.filter((item) => item.type === "function_call");
    assert.equal(call.name, "order_status");
    keepsToOrder(call.arguments);
  },

  async errors_are_typed() {
    for (const [ask, kind, param] of [
      [{ model: "nobody", messages: ASK }, OpenAI.NotFoundError, "model"],
      [{ model: MODEL, messages: ASK, temperature: 9 }, OpenAI.BadRequestError, "temperature"],
      [{ model: MODEL, messages: [] }, OpenAI.BadRequestError, "messages"],
      [{ model: MODEL }, OpenAI.BadRequestError, "messages"],
      [{ model: "nobody", messages: ASK, stream: true }, OpenAI.NotFoundError, "model"],
    ]) {
      const error = await client.chat.completions.create(ask).then(
        () => assert.fail(`${JSON.stringify(ask)} was answered`),
        (error) => error,
      );
      assert(error instanceof kind, `${error}`);
      assert.equal(error.param, param);
      assert.equal(error.type, "invalid_request_error");
      assert(error.code);
    }
  },

  async embeddings_in_both_formats() {
    if (!ENCODER) throw new Skip("no encoder was named");
    const whole = await client.embeddings.create({ model: ENCODER, input: ["one", "two"], encoding_format: "float" });
    // without a format the SDK asks for base64 and decodes it
    const decoded = await client.embeddings.create({ model: ENCODER, input: "one" });
    assert.equal(whole.data.length, 2);
    decoded.data[0].embedding.forEach((x, i) => assert(Math.abs(x - whole.data[0].embedding[i]) < 1e-6));
  },
};

let failed = 0;
for (const [name, check] of Object.entries(CHECKS)) {
  try {
    await check();
    console.log(`ok       ${name}`);
  } catch (error) {
    if (error instanceof Skip) {
      console.log(`skipped  ${name}: ${error.message}`);
    } else {
      failed += 1;
      console.log(`FAILED   ${name}\n${error.stack}`);
    }
  }
}
process.exitCode = Math.min(failed, 100);
