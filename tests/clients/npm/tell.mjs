// What the programs of the npm clients share: `node use.mjs URL KEY` reads lines {"do": NAME} and answers each with a
// line, {"told": ...} or {"error": ...}.

import { createInterface } from 'node:readline'

export const [URL, KEY] = process.argv.slice(2)
export const WRONG_KEY = 'cvn_client_' + '0'.repeat(64)
export const DOT =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADElEQVR4nGMAAQAABQABDQottAAAAABJRU5ErkJggg=='
export const COMPARE = 'Compare the weather of Paris and London'

export async function tell(things) {
  console.log = console.info = console.debug = console.error // stdout is for what is told.
  for await (const line of createInterface({ input: process.stdin })) {
    let answer
    try {
      answer = { told: await things[JSON.parse(line).do]() }
    } catch (error) {
      answer = { error: String(error?.stack ?? error) }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
}

export async function failure(call) {
  try {
    await call()
  } catch (error) {
    return [error.constructor.name, error.status ?? error.statusCode ?? null, error.message]
  }
  throw new Error('no error')
}

export async function each(things, call) {
  const told = {}
  for (const [name, thing] of Object.entries(things)) {
    told[name] = await call(thing)
  }
  return told
}
