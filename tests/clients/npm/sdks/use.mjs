// The npm clients of OpenAI and Anthropic, with their own helpers.

import Anthropic, { AuthenticationError, NotFoundError } from '@anthropic-ai/sdk'
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod'
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod'
import OpenAI from 'openai'
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod'
import { z } from 'zod'
import { COMPARE, DOT, KEY, URL, WRONG_KEY, failure, tell } from './tell.mjs'

const openai = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 })
const anthropic = new Anthropic({ baseURL: URL, apiKey: KEY, maxRetries: 0 })
const Person = z.object({ name: z.string(), age: z.number().int() })
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const weather = ({ city }) => `${city.length} degrees`
const asked = (content) => [{ role: 'user', content }]
const asking = (content, fields) => ({ model: 'm', max_tokens: 64, messages: asked(content), ...fields })
const textOf = (message) => message.content.filter(({ type }) => type === 'text').map(({ text }) => text).join('')
const picture = `data:image/png;base64,${DOT}`

await tell({
  async openaiChat() {
    const answer = await openai.chat.completions.create({ model: 'm', messages: asked('Hello') })
    const stream = openai.chat.completions.stream({ model: 'm', messages: asked('Hello') })
    let text = ''
    stream.on('content', (delta) => (text += delta))
    return [answer.choices[0].message.content, text || (await stream.finalContent()), await stream.finalContent()]
  },
  // The client's own loop over functions, streamed.
  async openaiTools() {
    let calls = 0
    const run = (given) => (calls++, weather(given))
    const tool = { type: 'function', function: { name: 'get_weather', parameters, parse: JSON.parse, function: run } }
    const runner = openai.chat.completions.runTools({ model: 'm', stream: true, messages: asked(COMPARE), tools: [tool] })
    return [await runner.finalContent(), calls]
  },
  async openaiParsed() {
    const answer = await openai.chat.completions.parse({
      model: 'm',
      messages: asked('Who?'),
      response_format: zodResponseFormat(Person, 'person'),
    })
    const response = await openai.responses.parse({
      model: 'm',
      input: 'Who?',
      text: { format: zodTextFormat(Person, 'person') },
    })
    return [answer.choices[0].message.parsed, response.output_parsed]
  },
  async openaiResponses() {
    const stream = openai.responses.stream({ model: 'm', input: 'think' })
    const final = await stream.finalResponse()
    return [final.output.map(({ type }) => type), final.output_text]
  },
  async openaiResponsesTools() {
    const tools = [{ type: 'function', name: 'get_weather', parameters, strict: false }]
    const input = asked(COMPARE)
    for (let calls = 0; calls < 5; ) {
      const answer = await openai.responses.create({ model: 'm', input, tools, store: false })
      input.push(...answer.output)
      const called = answer.output.filter(({ type }) => type === 'function_call')
      if (!called.length) return [answer.output_text, calls]
      for (const { call_id, arguments: given } of called) {
        calls++
        input.push({ type: 'function_call_output', call_id, output: weather(JSON.parse(given)) })
      }
    }
  },
  async openaiPicture() {
    const parts = [{ type: 'image_url', image_url: { url: picture } }]
    return (await openai.chat.completions.create({ model: 'm', messages: asked(parts) })).choices[0].message.content
  },
  async openaiEmbeddings() {
    const { data } = await openai.embeddings.create({ model: 'emb', input: ['a', 'b'], dimensions: 4 })
    return data.map(({ embedding }) => embedding.length)
  },
  async openaiErrors() {
    const wrong = new OpenAI({ baseURL: `${URL}/v1`, apiKey: WRONG_KEY, maxRetries: 0 })
    const create = (client, model) => client.chat.completions.create({ model, messages: asked('Hello') })
    return [await failure(() => create(openai, 'nosuch')), await failure(() => create(wrong, 'm'))]
  },
  async anthropicMessages() {
    const whole = await anthropic.messages.create(asking('Hello'))
    const stream = anthropic.messages.stream(asking('Hello'))
    let text = ''
    stream.on('text', (delta) => (text += delta))
    return [textOf(whole), await stream.finalText(), text]
  },
  async anthropicTools() {
    let calls = 0
    const tool = betaZodTool({
      name: 'get_weather',
      description: 'The weather',
      inputSchema: z.object({ city: z.string() }),
      run: (given) => (calls++, weather(given)),
    })
    return [textOf(await anthropic.beta.messages.toolRunner(asking(COMPARE, { tools: [tool] }))), calls]
  },
  async anthropicParsed() {
    const format = zodOutputFormat(Person)
    return (await anthropic.messages.parse(asking('Who?', { output_config: { format } }))).parsed_output
  },
  async anthropicThinking() {
    const thinking = { type: 'enabled', budget_tokens: 1024 }
    const stream = anthropic.messages.stream(asking('think', { max_tokens: 2048, thinking }))
    const { content } = await stream.finalMessage()
    return content.map((block) => block.thinking ?? block.text)
  },
  async anthropicPicture() {
    const source = { type: 'base64', media_type: 'image/png', data: DOT }
    return textOf(await anthropic.messages.create(asking([{ type: 'image', source }])))
  },
  async anthropicErrors() {
    const wrong = new Anthropic({ baseURL: URL, apiKey: WRONG_KEY, maxRetries: 0 })
    const unknown = await failure(() => anthropic.messages.create({ ...asking('Hello'), model: 'nosuch' }))
    const unauthorized = await failure(() => wrong.messages.create(asking('Hello')))
    return [unknown[0] === NotFoundError.name, unknown[1], unauthorized[0] === AuthenticationError.name, unauthorized[1]]
  },
})
