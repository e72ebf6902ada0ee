// Drives one version of phoenix.js, unmodified and with its default settings, but for how long it waits for replies: node phoenix.mjs 1.8 URL URL, with the
// /socket URLs of two gateways of one cluster.

import {createRequire} from "node:module"
import {WebSocket} from "ws"
import {NotApplicable, PATIENCE, ask, pushed, run, same, until} from "./harness.mjs"

const [line, ...urls] = process.argv.slice(2)
const require = createRequire(import.meta.url)
const {Socket} = require(`phoenix-${line}`)
// The package may not export its package.json; the lock file beside it says what is installed.
const {version} = require("../package-lock.json").packages[`node_modules/phoenix-${line}`]
const since = minor => Number(line.split(".")[1]) >= minor

// Client is one socket and a record of what went over it.
class Client {
  constructor(gateway, options = {}) {
    const client = this
    this.sent = [] // text frames, decoded
    this.heard = []
    this.closes = [] // close codes
    this.opens = 0
    class Transport extends WebSocket {
      send(data, ...rest) {
        if (typeof data === "string") client.sent.push(JSON.parse(data))
        super.send(data, ...rest)
      }
      constructor(url) {
        super(url)
        this.on("message", (data, binary) => binary || client.heard.push(JSON.parse(data)))
      }
    }
    this.socket = new Socket(urls[gateway], {transport: Transport, timeout: PATIENCE, ...options})
    this.socket.onOpen(() => this.opens++)
    this.socket.onClose(event => this.closes.push(event.code))
    this.socket.connect()
  }

  // join joins and returns the channel with what it gets: messages [[payload, ref] …], joins, closes.
  async join(topic, params = {}, event = "event") {
    const channel = this.socket.channel(topic, params)
    const got = {channel, messages: [], joins: [], closed: 0}
    channel.on(event, (payload, ref) => got.messages.push([payload, ref]))
    channel.onClose(() => got.closed++)
    channel.join().receive("ok", response => got.joins.push(response))
    await until(`join of ${topic}`, () => got.joins.length)
    return got
  }

  // cut ends the connection as a lost network does.
  cut() { this.socket.conn.terminate() }
}

const refused = push => new Promise((resolve, reject) => push
  .receive("error", resolve)
  .receive("ok", () => reject(new Error("it was accepted")))
  .receive("timeout", () => reject(new Error("no reply"))))

const payloads = got => got.messages.map(([payload]) => payload)
const hears = (who, got, want) => until(() => `${who} hears ${JSON.stringify(want)}, heard ${JSON.stringify(payloads(got))}`,
  () => got.messages.length >= want.length).then(() => same(who, payloads(got), want))

let topics = 0
const newTopic = () => `room:${line}-${++topics}`

// params gives a value that a rejoin evaluates again: a function, or before 1.4, which took none, the object that the
// version reads again.
const params = values => since(4) ? () => ({...values}) : values

const joinsSent = (client, topic) => client.sent.filter(f => f[2] === topic && f[3] === "phx_join")

const alice = new Client(0)
const bob = new Client(1)
// A heartbeat that is not answered before the next is due ends the connection, so the interval leaves a busy machine time.
const quick = new Client(0, {heartbeatIntervalMs: 3000})

// comesBack plays a restart of bob's gateway: how ends it and says so with a close code that bob sees.
async function comesBack(how, code) {
  const topic = newTopic()
  const a = await alice.join(topic)
  const b = await bob.join(topic)
  await pushed(a.channel.push("event", {n: 1}))
  await hears("bob", b, [{n: 1}])
  const closes = bob.closes.length, opens = bob.opens, calm = alice.closes.length
  await ask(how, 1)
  await until("bob's socket closes", () => bob.closes.length > closes)
  same("close code", bob.closes[closes], code)
  await ask("start", 1)
  await until("bob's socket opens", () => bob.opens > opens)
  await until("bob has joined again", () => b.joins.length > 1)
  await pushed(a.channel.push("event", {n: 2}))
  await pushed(b.channel.push("event", {n: 3}))
  await hears("bob", b, [{n: 1}, {n: 2}, {n: 3}])
  await hears("alice", a, [{n: 1}, {n: 2}, {n: 3}])
  same("alice's closes", alice.closes.length, calm)
}

await run("phoenix.js", version, {
  async join() {
    const {joins} = await alice.join(newTopic())
    same("response", joins[0], {})
  },

  async params_function_and_rejoin() {
    const topic = newTopic(), values = {token: 1}
    const b = await bob.join(topic, params(values))
    values.token = 2
    bob.cut()
    await until("bob has joined again", () => b.joins.length > 1)
    same("params sent", joinsSent(bob, topic).map(f => f[4].token), [1, 2])
    await pushed(b.channel.push("event", {n: 1}))
    await hears("bob", b, [{n: 1}])
    return since(4) ? "" : "takes no function: the params object is sent anew"
  },

  async push_with_reply() {
    const a = await alice.join(newTopic())
    same("reply to an event", await pushed(a.channel.push("event", {n: 1})), {})
    same("reply to publish", await pushed(a.channel.push("publish", ["event", {n: 2}])), {})
    await hears("alice", a, [{n: 1}, {n: 2}])
    const frames = alice.heard.filter(f => f[2] === a.channel.topic).map(f => f[3])
    same("replies before own copies", frames, ["phx_reply", "phx_reply", "event", "phx_reply", "event"])
    const refusal = await refused(a.channel.push("publish", ["event", "no object"]))
    same("refusal", refusal, {reason: "bad publish: payload: want an object"})
  },

  async broadcast_over_gateways() {
    const topic = newTopic()
    const a = await alice.join(topic)
    const b = await bob.join(topic)
    const odd = {text: "Grüße, 世界 \u{1f980} \" \\ \n", list: [1, 2.5, null, {deep: true}], empty: {}}
    await pushed(a.channel.push("event", odd))
    await pushed(b.channel.push("event", {n: 2}))
    await hears("alice", a, [odd, {n: 2}])
    await hears("bob", b, [odd, {n: 2}])
  },

  async unknown_topic() {
    const channel = alice.socket.channel("nocolon")
    same("refusal", await refused(channel.join()), {reason: "unmatched topic"})
    channel.leave()
    same("alice's closes", alice.closes, [])
  },

  async leave() {
    const topic = newTopic()
    const a = await alice.join(topic)
    const b = await bob.join(topic)
    const carol = new Client(1)
    const c = await carol.join(topic)
    await pushed(b.channel.leave())
    same("closed", b.closed, 1)
    await pushed(a.channel.push("event", {n: 1}))
    await hears("carol, on bob's gateway", c, [{n: 1}]) // so what bob joins next begins behind it
    carol.socket.disconnect()
    const again = await bob.join(topic)
    await pushed(a.channel.push("event", {n: 2}))
    await hears("bob, back again", again, [{n: 2}])
    same("the left channel", payloads(b), [])
  },

  async duplicate_join() {
    const topic = newTopic()
    const a = await alice.join(topic)
    const first = await bob.join(topic)
    const second = await bob.join(topic)
    await until("the first channel is closed", () => first.closed)
    await pushed(a.channel.push("event", {n: 1}))
    await hears("the second channel", second, [{n: 1}])
    same("the first channel", payloads(first), [])
    same("the second is open", second.closed, 0)
    return bob.sent.some(f => f[2] === topic && f[3] === "phx_leave") ? "the library leaves first" : "two joins in a row"
  },

  async binary_payload() {
    if (!since(5)) throw new NotApplicable("binary payloads came with 1.5")
    const topic = newTopic(), bytes = Uint8Array.from({length: 256}, (_, i) => i)
    const a = await alice.join(topic, {}, "blob")
    const b = await bob.join(topic, {}, "blob")
    await pushed(a.channel.push("blob", bytes.buffer))
    for (const [who, got] of Object.entries({alice: a, bob: b})) {
      await until(`${who} hears`, () => got.messages.length)
      same(who, [...new Uint8Array(got.messages[0][0])], [...bytes])
    }
  },

  async heartbeat() {
    const answers = () => quick.heard.filter(f => f[2] === "phoenix" && f[3] === "phx_reply" && f[4].status === "ok").length
    await until("two answers", () => answers() >= 2)
    same("closes", quick.closes, [])
  },

  kill_and_restart: () => comesBack("kill", 1006),
  close_1012_and_restart: () => comesBack("term", 1012),

  async resume_with_since() {
    const topic = newTopic()
    const a = await alice.join(topic)
    const place = {since: null}
    const b = await bob.join(topic, params(place))
    b.channel.on("event", (payload, ref) => { place.since = ref })
    await pushed(a.channel.push("event", {n: 0}))
    await hears("bob", b, [{n: 0}])
    const closes = bob.closes.length
    await ask("kill", 1)
    await until("bob's socket closes", () => bob.closes.length > closes)
    for (let n = 1; n <= 20; n++) await pushed(a.channel.push("event", {n}))
    await ask("start", 1)
    await until("bob has joined again", () => b.joins.length > 1)
    await pushed(a.channel.push("event", {n: 21}))
    await hears("bob", b, Array.from({length: 22}, (_, n) => ({n})))
    const [epoch] = b.joins[0].since.split(":")
    same("positions", b.messages.map(([, ref]) => ref), b.messages.map((_, i) => `${epoch}:${i + 1}`))
    same("join replies", b.joins, [{since: `${epoch}:0`, recovered: false}, {since: `${epoch}:1`, recovered: true}])
  },
})
