// Drives @supabase/realtime-js against two gateways, with either version of the protocol: node realtime.mjs URL URL URL URL,
// with the /socket URLs of two gateways of one cluster, and of two of another one with a long grace.

import {createRequire} from "node:module"
import {WebSocket} from "ws"
import {PATIENCE, ask, run, same, until} from "./harness.mjs"

const urls = process.argv.slice(2).map(url => url.replace(/\/socket$/, "/realtime/v1"))
const require = createRequire(import.meta.url)
const {RealtimeClient} = require("@supabase/realtime-js")
const {version} = require("../package-lock.json").packages["node_modules/@supabase/realtime-js"]

async function join(url, topic, {vsn, presence, silent, ...broadcast} = {}) {
  const client = new RealtimeClient(url, {transport: WebSocket, timeout: PATIENCE, ...vsn && {vsn}, params: {apikey: "none"}})
  const channel = client.channel(topic, {config: {broadcast, ...presence && {presence}}})
  const got = {client, channel, messages: [], statuses: [], joins: [], leaves: [], syncs: 0}
  channel.on("broadcast", {event: "shout"}, message => got.messages.push(message.payload))
  if (presence && !silent) {
    channel.on("presence", {event: "sync"}, () => got.syncs++)
    channel.on("presence", {event: "join"}, ({key, newPresences}) => got.joins.push([key, newPresences.at(-1).name]))
    channel.on("presence", {event: "leave"}, ({key, leftPresences}) => got.leaves.push([key, leftPresences.at(-1).name]))
  }
  channel.subscribe((status, error) => got.statuses.push(error ? `${status}: ${error}` : status))
  await until(() => `subscribed; ${got.statuses}`, () => got.statuses.includes("SUBSCRIBED"))
  return got
}

let topics = 0
const newTopic = () => `lobby-${++topics}`
const shout = (got, payload) => got.channel.send({type: "broadcast", event: "shout", payload})
const hears = (who, got, want) => until(() => `${who} hears ${JSON.stringify(want)}, heard ${JSON.stringify(got.messages)}`,
  () => got.messages.length >= want.length).then(() => same(who, got.messages, want))

// present waits until a client sees who is there: {"ada": ["phone", …]}.
const present = (got, want) => until(() => `it sees ${JSON.stringify(want)}; it sees ${JSON.stringify(names(got))}`,
  () => JSON.stringify(names(got)) === JSON.stringify(want))
const names = ({channel}) => Object.fromEntries(Object.entries(channel.presenceState()).sort()
  .map(([key, metas]) => [key, metas.map(m => m.name).sort()]))

// presenceOver has two clients track themselves, each with its version of the protocol.
async function presenceOver(...vsns) {
  const topic = newTopic()
  const [ada, ben] = await Promise.all(["ada", "ben"].map((key, i) => join(urls[i], topic, {vsn: vsns[i], presence: {key}})))
  same("track", await ada.channel.track({name: "phone"}), "ok")
  for (const got of [ada, ben]) await present(got, {ada: ["phone"]})
  same("track", await ben.channel.track({name: "desk"}), "ok")
  for (const got of [ada, ben]) await present(got, {ada: ["phone"], ben: ["desk"]})
  same("references", ada.channel.presenceState(), ben.channel.presenceState())
  same("joins", ada.joins, [["ada", "phone"], ["ben", "desk"]])
  const syncs = ada.syncs
  same("the same again", await ben.channel.track({name: "desk"}), "ok")
  same("an update", await ben.channel.track({name: "sofa"}), "ok")
  for (const got of [ada, ben]) await present(got, {ada: ["phone"], ben: ["sofa"]})
  same("joins", ada.joins.slice(2), [["ben", "sofa"]])
  same("leaves", ada.leaves, [["ben", "desk"]])
  same("syncs", ada.syncs - syncs, 1)
  same("untrack", await ben.channel.untrack(), "ok")
  for (const got of [ada, ben]) await present(got, {ada: ["phone"]})
  same("unsubscribe", await ada.channel.unsubscribe(), "ok")
  await present(ben, {})
}

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

  presence_over_gateways: () => presenceOver(undefined, undefined),
  async presence_with_vsn_1() {
    await presenceOver("1.0.0", "1.0.0")
    await presenceOver("1.0.0", "2.0.0")
  },

  async track_by_a_channel_that_did_not_ask_for_presence() {
    const topic = newTopic()
    const ada = await join(urls[0], topic, {presence: {key: "ada"}})
    await ada.channel.track({name: "phone"})
    const ben = await join(urls[1], topic, {silent: true, presence: {key: "ben"}})
    same("before", ben.channel.presenceState(), {})
    same("track", await ben.channel.track({name: "desk"}), "ok")
    for (const got of [ada, ben]) await present(got, {ada: ["phone"], ben: ["desk"]})
  },

  async several_metas_of_a_key() {
    const topic = newTopic()
    const [phone, tablet] = await Promise.all(urls.slice(0, 2).map(url => join(url, topic, {presence: {key: "ada"}})))
    await phone.channel.track({name: "phone"})
    await tablet.channel.track({name: "tablet"})
    for (const got of [phone, tablet]) await present(got, {ada: ["phone", "tablet"]})
    await phone.channel.unsubscribe()
    await present(tablet, {ada: ["tablet"]})
  },

  async reconnect_unseen_within_the_grace() {
    const topic = newTopic()
    const [ada, ben] = await Promise.all(["ada", "ben"].map((key, i) => join(urls[2 + i], topic, {presence: {key}})))
    await ada.channel.track({name: "phone"})
    await ben.channel.track({name: "desk"})
    await present(ada, {ada: ["phone"], ben: ["desk"]})
    const back = ben.statuses.length
    ben.client.socketAdapter.getSocket().conn.terminate()
    await until("ben is back", () => ben.statuses.slice(back).includes("SUBSCRIBED"))
    same("track", await ben.channel.track({name: "desk"}), "ok")
    const cleo = await join(urls[3], topic, {presence: {key: "cleo"}})
    await cleo.channel.track({name: "late"})
    for (const got of [ada, ben]) {
      await present(got, {ada: ["phone"], ben: ["desk"], cleo: ["late"]})
      same("who left", got.leaves, [])
    }
    same("who ada saw join", ada.joins.map(([key]) => key), ["ada", "ben", "cleo"])
  },

  async killed_gateways_members_leave_at_once() {
    const topic = newTopic()
    const ada = await join(urls[0], topic, {presence: {key: "ada"}})
    await ada.channel.track({name: "phone"})
    const there = await Promise.all([1, 2, 3].map(n => join(urls[1], topic, {presence: {key: `m${n}`}})))
    for (const got of there) await got.channel.track({name: "there"})
    await present(ada, {ada: ["phone"], m1: ["there"], m2: ["there"], m3: ["there"]})
    const {syncs} = ada, killed = Date.now()
    await ask("kill", 1)
    await present(ada, {ada: ["phone"]})
    const took = Date.now() - killed
    same("syncs", ada.syncs - syncs, 1)
    if (took > PATIENCE / 3) throw new Error(`they left after ${took} ms`)
    await ask("start", 1)
    await until("they are back", () => there.every(got => got.channel.state === "joined"))
    return `after ${took} ms`
  },

  async broadcast_by_HTTP() {
    const topic = newTopic()
    const a = await join(urls[0], topic)
    const client = new RealtimeClient(urls[1], {transport: WebSocket, timeout: PATIENCE, params: {apikey: "none"}, logger: () => {}})
    const channel = client.channel(topic)
    same("send before subscribe", await channel.send({type: "broadcast", event: "shout", payload: {n: 1}}), "ok")
    same("httpSend", await channel.httpSend("shout", {n: 2}), {success: true})
    await hears("a", a, [{n: 1}, {n: 2}])
    const bytes = Uint8Array.from({length: 256}, (_, i) => i)
    same("httpSend of bytes", await channel.httpSend("shout", bytes), {success: true})
    await until("a hears", () => a.messages.length === 3)
    same("bytes", [...new Uint8Array(a.messages[2])], [...bytes])
    const refusal = await client.channel("no such topic").httpSend("shout", {}).catch(error => error.message)
    same("refusal", refusal, "bad_request")
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
