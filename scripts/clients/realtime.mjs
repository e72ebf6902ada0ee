// Drives @supabase/realtime-js against two gateways, with JSON frames: its default ones carry broadcasts in binary kinds
// of its own.

import {createRequire} from "node:module"
import {WebSocket} from "ws"
import {run, same, until} from "./harness.mjs"

const urls = process.argv.slice(2)
const require = createRequire(import.meta.url)
const {RealtimeClient} = require("@supabase/realtime-js")
const {version} = require("../package-lock.json").packages["node_modules/@supabase/realtime-js"]

async function join(url, topic) {
  const client = new RealtimeClient(url, {transport: WebSocket, vsn: "1.0.0", params: {apikey: "none"}})
  const channel = client.channel(topic, {config: {broadcast: {ack: true, self: true}}})
  const got = {client, channel, messages: [], statuses: []}
  channel.on("broadcast", {event: "shout"}, message => got.messages.push(message.payload))
  channel.subscribe((status, error) => got.statuses.push(error ? `${status}: ${error}` : status))
  await until(() => `subscribed; ${got.statuses}`, () => got.statuses.includes("SUBSCRIBED"))
  return got
}

await run("realtime-js", version, {
  async broadcast_over_gateways() {
    const a = await join(urls[0], "lobby")
    const b = await join(urls[1], "lobby")
    same("acknowledged", await a.channel.send({type: "broadcast", event: "shout", payload: {n: 1}}), "ok")
    same("acknowledged", await b.channel.send({type: "broadcast", event: "shout", payload: {n: 2}}), "ok")
    for (const [who, got] of Object.entries({a, b})) {
      await until(`${who} hears both`, () => got.messages.length >= 2)
      same(who, got.messages, [{n: 1}, {n: 2}])
    }
    same("unsubscribe", await b.channel.unsubscribe(), "ok")
    return "vsn 1.0.0"
  },
})
