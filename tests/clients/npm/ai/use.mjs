// Vercel's AI SDK, by each of its providers that reaches a server of ours.

import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { Output, embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from 'ai'
import { z } from 'zod'
import { COMPARE, DOT, KEY, URL, WRONG_KEY, each, failure, tell } from './tell.mjs'

const V1 = `${URL}/v1`
const compatible = createOpenAICompatible({
  name: 'caravan',
  baseURL: V1,
  apiKey: KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
})

// `openai(name)` is a model of the Responses API.
function models(name = 'm', apiKey = KEY) {
  const openai = createOpenAI({ baseURL: V1, apiKey })
  return {
    compatible: createOpenAICompatible({ name: 'caravan', baseURL: V1, apiKey, supportsStructuredOutputs: true })(name),
    chat: openai.chat(name),
    responses: openai(name),
    anthropic: createAnthropic({ baseURL: V1, apiKey })(name),
  }
}

const Person = z.object({ name: z.string(), age: z.number().int() })
const get_weather = tool({
  description: 'The weather',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `${city.length} degrees`,
})
const options = {
  maxRetries: 0,
  providerOptions: { openai: { store: false } },
}
const looped = { ...options, tools: { get_weather }, stopWhen: stepCountIs(5) }
const all = (call) => each(models(), call)

await tell({
  text: () =>
    all(async (model) => {
      const { text, finishReason } = await generateText({ ...options, model, system: 'the server.', prompt: 'Who are you?' })
      return [text, finishReason]
    }),
  stream: () =>
    all(async (model) => {
      let text = ''
      for await (const part of streamText({ ...options, model, prompt: 'Hello' }).textStream) text += part
      return text
    }),
  steps: () =>
    all(async (model) => {
      const { text, steps } = await generateText({ ...looped, model, prompt: COMPARE })
      return [text, steps.length]
    }),
  stepsStreamed: () =>
    all(async (model) => {
      const answer = streamText({ ...looped, model, prompt: COMPARE })
      await answer.consumeStream()
      return [await answer.text, (await answer.steps).length]
    }),
  stored: () => failure(() => generateText({ ...looped, providerOptions: {}, model: models().responses, prompt: COMPARE })),
  object: () =>
    all(async (model) => (await generateObject({ ...options, model, schema: Person, prompt: 'Who?' })).object),
  objectStreamed: () =>
    all(async (model) => {
      const answer = streamObject({ ...options, model, schema: Person, prompt: 'Who?' })
      for await (const _ of answer.partialObjectStream);
      return answer.object
    }),
  output: () =>
    all(async (model) => {
      const output = Output.object({ schema: Person })
      return (await generateText({ ...options, model, output, prompt: 'Who?' })).output
    }),
  required: () =>
    all(async (model) => {
      const tools = { get_weather: { ...get_weather, execute: undefined } }
      const asked = { ...options, model, tools, toolChoice: 'required', prompt: 'The weather of London' }
      return (await generateText(asked)).toolCalls.map(({ input }) => input)
    }),
  thinking: () =>
    all(async (model) => {
      const { reasoningText, text } = await generateText({ ...options, model, prompt: 'think' })
      return [reasoningText ?? null, text]
    }),
  picture: () =>
    all(async (model) => {
      const content = [{ type: 'image', image: DOT, mediaType: 'image/png' }]
      return (await generateText({ ...options, model, messages: [{ role: 'user', content }] })).text
    }),
  async usage() {
    const answer = streamText({ ...options, model: compatible('m'), prompt: 'Hello' })
    await answer.consumeStream()
    return (await answer.usage).outputTokens
  },
  async embeddings() {
    const openai = createOpenAI({ baseURL: V1, apiKey: KEY })
    const given = [compatible.textEmbeddingModel('emb'), openai.textEmbeddingModel('emb')]
    const found = await Promise.all(given.map((model) => embedMany({ ...options, model, values: ['a', 'b'] })))
    return found.map(({ embeddings }) => embeddings.map(({ length }) => length))
  },
  async errors() {
    const failing = (model) => failure(() => generateText({ ...options, model, prompt: 'Hello' }))
    return { unknown: await each(models('nosuch'), failing), wrong: await each(models('m', WRONG_KEY), failing) }
  },
})
