// Drives @supabase/realtime-js against two gateways, with either version of the protocol: node realtime.mjs URL URL, with
// the /socket URLs of two gateways of one cluster.

import {createRequire} from "node:module"
import {WebSocket} from "ws"
import {ask, run, same, until} from "./harness.mjs"

const urls = process.argv.slice(2).map(url => url.replace(/\/socket$/, "/realtime/v1"))
const require = createRequire(import.meta.url)
const {RealtimeClient} = require("@supabase/realtime-js")
const {version} = require("../package-lock.json").packages["node_modules/@supabase/realtime-js"]

async function join(url, topic, {vsn, ...broadcast} = {}) {
  const client = new RealtimeClient(url, {transport: WebSocket, ...vsn && {vsn}, params: {apikey: "none"}})
  const channel = client.channel(topic, {config: {broadcast}})
  const got = {client, channel, messages: [], statuses: []}
  channel.on("broadcast", {event: "shout"}, message => got.messages.push(message.payload))
  channel.subscribe((status, error) => got.statuses.push(error ? `${status}: ${error}` : status))
  await until(() => `subscribed; ${got.statuses}`, () => got.statuses.includes("SUBSCRIBED"))
  return got
}

let topics = 0
const newTopic = () => `lobby-${++topics}`
const shout = (got, payload) => got.channel.send({type: "broadcast", event: "shout", payload})
const hears = (who, got, want) => until(() => `${who} hears ${JSON.stringify(want)}, heard ${JSON.stringify(got.messages)}`,
  () => got.messages.length >= want.length).then(() => same(who, got.messages, want))

// overGateways has two clients broadcast to each other.
async function overGateways(...vsns) {
  const topic = newTopic()
  const [a, b] = await Promise.all(vsns.map((vsn, i) => join(urls[i], topic, {vsn, ack: true, self: true})))
  const odd = {text: "Grüße, 世界 \u{1f980} \" \\ \n", list: [1, 2.5, null, {deep: true}]}
  same("acknowledged", await shout(a, odd), "ok")
  same("acknowledged", await shout(b, {n: 2}), "ok")
  await hears("a", a, [odd, {n: 2}])
  await hears("b", b, [odd, {n: 2}])
  same("unsubscribe", await b.channel.unsubscribe(), "ok")
}

await run("realtime-js", version, {
  broadcast_over_gateways: () => overGateways(undefined, undefined),
  async broadcast_with_vsn_1() {
    await overGateways("1.0.0", "1.0.0")
    await overGateways("1.0.0", "2.0.0")
  },

  async broadcast_of_bytes() {
    const topic = newTopic()
    const a = await join(urls[0], topic, {ack: true})
    const b = await join(urls[1], topic)
    const bytes = Uint8Array.from({length: 256}, (_, i) => i)
    same("acknowledged", await shout(a, bytes.buffer), "ok")
    await until("b hears", () => b.messages.length)
    same("b", [...new Uint8Array(b.messages[0])], [...bytes])
  },

  async self_and_ack() {
    const topic = newTopic()
    const alone = await join(urls[0], topic)
    const both = await join(urls[0], topic, {self: true, ack: true})
    for (let n = 1; n <= 20; n++) {
      same("sent", await shout(alone, {n}), "ok")
      same("acknowledged", await shout(both, {n: -n}), "ok")
    }
    await until("the one hears itself", () => both.messages.length >= 40)
    await hears("the other", alone, Array.from({length: 20}, (_, i) => ({n: -1 - i})))
    same("both", both.messages.length, 40)
  },

  async access_token() {
    const a = await join(urls[0], newTopic(), {ack: true, self: true})
    await a.client.setAuth("a.new.token")
    same("acknowledged", await shout(a, {n: 1}), "ok")
    await hears("a", a, [{n: 1}])
  },

  async kill_and_restart() {
    const topic = newTopic()
    const a = await join(urls[0], topic, {ack: true})
    const b = await join(urls[1], topic, {ack: true})
    await ask("kill", 1)
    await until("b sees it", () => b.channel.state !== "joined")
    await ask("start", 1)
    await until("b has joined again", () => b.channel.state === "joined")
    same("acknowledged", await shout(a, {n: 1}), "ok")
    same("acknowledged", await shout(b, {n: 2}), "ok")
    await hears("b", b, [{n: 1}])
    await hears("a", a, [{n: 2}])
  },
})
