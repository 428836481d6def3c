// The official client, as users have it: a whole answer, a stream, an error. Prints what it got as one JSON object.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const whole = await client.chat.completions.create({ model: "tiny", messages, max_tokens: 6 });
let streamed = "";
let usage = null;
const chunks = await client.chat.completions.create({
  model: "tiny", messages, max_tokens: 6, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of chunks) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const models = (await client.models.list()).data.map((model) => model.id);
const error = await client.chat.completions
  .create({ model: "huge", messages })
  .catch((caught) => ({ kind: caught.constructor.name, status: caught.status, code: caught.code }));
console.log(JSON.stringify({ whole: whole.choices[0].message.content, streamed, usage, models, error }));
