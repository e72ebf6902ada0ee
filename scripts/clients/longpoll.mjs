// Drives one version of phoenix.js, unmodified, by long polls: node longpoll.mjs 1.8 URL URL, with the /socket URLs of two
// gateways of one cluster. A balancer stands before them that refuses WebSockets and sends requests to each in turn.

import {createRequire} from "node:module"
import {WebSocket} from "ws"
import {Balancer, XMLHttpRequest} from "./balancer.mjs"
import {NotApplicable, PATIENCE, ask, pushed, run, same, until} from "./harness.mjs"

const [line, ...urls] = process.argv.slice(2)
const since = minor => Number(line.split(".")[1]) >= minor
globalThis.self = globalThis
if (!since(8)) globalThis.XMLHttpRequest = XMLHttpRequest // later versions know fetch
if (!since(4)) globalThis.window = globalThis
const require = createRequire(import.meta.url)
const {LongPoll, Socket} = require(`phoenix-${line}`)
const {version} = require("../package-lock.json").packages[`node_modules/phoenix-${line}`]

const balancer = await Balancer.start(urls.map(url => new URL(url).host))

// Client is one socket, by whatever transport, and what becomes of it.
class Client {
  constructor(url, options) {
    this.socket = new Socket(url, {timeout: PATIENCE, ...options})
    this.opens = this.closes = 0
    this.socket.onOpen(() => this.opens++)
    this.socket.onClose(() => this.closes++)
    this.socket.connect()
  }

  async join(topic) {
    const channel = this.socket.channel(topic, {})
    const got = {channel, messages: [], joins: 0, closed: 0}
    channel.on("event", payload => got.messages.push(payload))
    channel.onClose(() => got.closed++)
    channel.join().receive("ok", () => got.joins++)
    await until(`join of ${topic}`, () => got.joins)
    return got
  }
}

const hears = (who, got, want) => until(() => `${who} hears ${JSON.stringify(want)}, heard ${JSON.stringify(got.messages)}`,
  () => got.messages.length >= want.length).then(() => same(who, got.messages, want))

let topics = 0
const newTopic = () => `room:longpoll-${line}-${++topics}`

const alice = new Client(urls[0], {transport: WebSocket})
const bob = new Client(balancer.url, {transport: LongPoll})

// converse joins, pushes, is answered, hears and leaves.
async function converse(client) {
  const topic = newTopic()
  const a = await alice.join(topic)
  const b = await client.join(topic)
  const odd = {text: "Grüße, 世界 \u{1f980} \" \\ \n", list: [1, 2.5, null, {deep: true}]}
  await pushed(a.channel.push("event", odd))
  same("reply", await pushed(b.channel.push("event", {n: 2})), {})
  const want = [odd, {n: 2}]
  // A burst goes out in one POST since 1.7, and in one POST each before, which may overtake each other.
  for (let n = 3; n < 23; n++) {
    const push = b.channel.push("event", {n})
    if (!since(7)) await pushed(push)
    want.push({n})
  }
  await hears("alice", a, want)
  await hears("the client by long polls", b, want)
  await pushed(b.channel.leave())
  same("closed", b.closed, 1)
}

// comesBack has the gateway of a session end, and expects the client on the other one with its channel joined again.
async function comesBack(how) {
  balancer.home = 1
  const carol = new Client(balancer.url, {transport: LongPoll})
  const topic = newTopic()
  const a = await alice.join(topic)
  const c = await carol.join(topic)
  await pushed(a.channel.push("event", {n: 1}))
  await hears("carol", c, [{n: 1}])
  balancer.home = -1
  const calm = alice.closes
  if (how === "term") balancer.out = 1 // as one does who stops a gateway in order
  await ask(how, 1)
  await until("carol has joined again", () => c.joins > 1)
  await pushed(a.channel.push("event", {n: 2}))
  await pushed(c.channel.push("event", {n: 3}))
  await hears("carol", c, [{n: 1}, {n: 2}, {n: 3}])
  same("alice's closes", alice.closes, calm)
  await ask("start", 1)
  balancer.out = -1
  carol.socket.disconnect()
  return `${carol.opens} sessions`
}

await run("phoenix.js", version, {
  async longpoll_over_two_gateways() {
    await converse(bob)
    if (balancer.served.some(n => n < 2)) throw new Error(`requests by gateway: ${balancer.served}`)
    same("sessions", bob.opens, 1)
  },

  async longpoll_fallback() {
    if (!since(7)) throw new NotApplicable("longPollFallbackMs came with 1.7")
    const refused = balancer.upgrades
    const dave = new Client(balancer.url, {transport: WebSocket, longPollFallbackMs: 300})
    await converse(dave)
    if (balancer.upgrades === refused) throw new Error("no WebSocket was tried")
    same("transport", dave.socket.transport === LongPoll, true)
    dave.socket.disconnect()
  },

  longpoll_gateway_killed: () => comesBack("kill"),
  longpoll_gateway_stopped: () => comesBack("term"),
})
