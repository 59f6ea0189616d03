// Drives the official `ollama` npm client for a test: `node client.mjs HOST` reads a list of calls as JSON on
// stdin, makes them one after another and prints a list of what came back.
//
// A call is {method, request?, abort_after?}. What comes back is {answer}, {chunks} for a stream, or {error};
// `abort_after` breaks a stream off after that many chunks.

import { text } from 'node:stream/consumers'
import { Ollama } from 'ollama'

console.log = console.error // The client prints remarks of its own, and stdout is for what came back.
const ollama = new Ollama({ host: process.argv[2] })

async function collect(stream, abortAfter) {
  const chunks = []
  try {
    for await (const chunk of stream) {
      chunks.push(chunk)
      if (chunks.length === abortAfter) {
        stream.abort()
      }
    }
  } catch (error) {
    return { chunks, error: describe(error) }
  }
  return { chunks }
}

async function run({ method, request, abort_after: abortAfter }) {
  try {
    const answer = await ollama[method](request)
    return request?.stream ? await collect(answer, abortAfter) : { answer }
  } catch (error) {
    return { error: describe(error) }
  }
}

function describe({ name, message, status_code: status }) {
  return { name, message, status }
}

const results = []
for (const call of JSON.parse(await text(process.stdin))) {
  results.push(await run(call))
}
process.stdout.write(JSON.stringify(results))
