// What the client programs share. A program drives one client library through scenarios against a cluster that somebody
// else runs. On standard output it prints one JSON object a line: {"ask": …} for something to be done to the cluster,
// which is answered by one line of JSON on standard input, and {"client", "version", "scenario", "result", "detail"}
// for each scenario, with the result ok, failed or n/a.

import {createInterface} from "node:readline"

export const PATIENCE = 60_000 // ms that anything awaited may take, on a busy machine

const input = createInterface({input: process.stdin})[Symbol.asyncIterator]()

const print = object => process.stdout.write(JSON.stringify(object) + "\n")

// ask has something done: kill, term or start with the number of a gateway, add for one more. It returns the answer.
export async function ask(what, gateway) {
  print({ask: what, gateway})
  const {value, done} = await input.next()
  if (done) throw new Error(`no answer to ${what}`)
  return JSON.parse(value)
}

// until waits for cond to return something true, and returns that.
export async function until(what, cond) {
  for (const end = Date.now() + PATIENCE; Date.now() < end; await new Promise(r => setTimeout(r, 2))) {
    const result = await cond()
    if (result) return result
  }
  throw new Error(`never: ${typeof what === "function" ? await what() : what}`)
}

export function same(what, got, want) {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)]
  if (g !== w) throw new Error(`${what}: got ${g}, want ${w}`)
}

// pushed resolves with the response to a push of phoenix.js that is answered ok.
export const pushed = push => new Promise((resolve, reject) => push
  .receive("ok", resolve)
  .receive("error", response => reject(new Error(`error reply ${JSON.stringify(response)}`)))
  .receive("timeout", () => reject(new Error("no reply"))))

// NotApplicable is thrown by a scenario that a version has nothing for.
export class NotApplicable extends Error {}

// run runs the scenarios in their order and ends the process. One that fails does not keep the others from running.
export async function run(client, version, scenarios) {
  for (const [scenario, play] of Object.entries(scenarios)) {
    let result = "ok", detail = ""
    try {
      detail = await play() ?? ""
    } catch (error) {
      result = error instanceof NotApplicable ? "n/a" : "failed"
      detail = result === "n/a" ? error.message : String(error?.stack ?? error)
    }
    print({client, version, scenario: scenario.replaceAll("_", " "), result, detail})
  }
  process.exit(0)
}
