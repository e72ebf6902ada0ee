// Drives the Presence of one version of phoenix.js, unmodified: node presence.mjs 1.8 URL URL URL URL, with the /socket URLs of two
// gateways of one cluster, and of two of another one whose grace is so long that nobody who comes back is late.

import {createRequire} from "node:module"
import {WebSocket} from "ws"
import {PATIENCE, ask, pushed, run, same, until} from "./harness.mjs"

const [line, ...urls] = process.argv.slice(2)
const require = createRequire(import.meta.url)
const {Presence, Socket} = require(`phoenix-${line}`)
const {version} = require("../package-lock.json").packages[`node_modules/phoenix-${line}`]

// Before 1.4 a channel that lost its socket is joined again two seconds later, which is the grace, unless told otherwise.
const hasty = line === "1.3" ? {reconnectAfterMs: () => 50} : {}

// presenceOf returns an object with a list of who is on the channel, and has on told of it: onJoin, onLeave, onSync.
// Before 1.4 the library merges what the program hands to it.
function presenceOf(channel, on) {
  if (typeof Presence === "function") {
    const presence = new Presence(channel)
    for (const [name, handle] of Object.entries(on)) presence[name](handle)
    return presence
  }
  let state = {}
  const merge = how => news => {
    state = how.call(Presence, state, news, on.onJoin, on.onLeave)
    on.onSync()
  }
  channel.on("presence_state", merge(Presence.syncState))
  channel.on("presence_diff", merge(Presence.syncDiff))
  return {list: by => Presence.list(state, by)}
}

// Member is a client of its own that takes part in a topic's presence.
class Member {
  static async join(gateway, topic, presence) {
    const m = new Member()
    m.socket = new Socket(urls[gateway], {transport: WebSocket, timeout: PATIENCE, ...hasty})
    m.socket.connect()
    m.channel = m.socket.channel(topic, {presence})
    m.diffs = [] // as they came
    m.joins = [] // [key, the newest meta]; before 1.6 the library hands out the older ones too
    m.leaves = []
    m.syncs = m.joined = 0
    m.channel.on("presence_diff", diff => m.diffs.push(structuredClone(diff)))
    m.presence = presenceOf(m.channel, {
      onJoin: (key, _, {metas}) => m.joins.push([key, structuredClone(metas.at(-1))]),
      onLeave: (key, _, {metas}) => m.leaves.push([key, structuredClone(metas.at(-1))]),
      onSync: () => m.syncs++,
    })
    m.channel.join().receive("ok", () => m.joined++)
    await until(`${presence.key} has joined ${topic}`, () => m.joined)
    return m
  }

  // metas is who is there: [["ada", [meta, …]], …], sorted by key.
  metas() { return this.presence.list((key, {metas}) => [key, metas]).sort() }

  // names is who is there with the names in their metas: ada:phone+tablet.
  names() { return this.metas().map(([key, metas]) => `${key}:${metas.map(m => m.name).sort().join("+")}`).join(" ") }

  sees(want) { return until(() => `it sees ${want}; it sees ${this.names()}`, () => this.names() === want) }

  // forget begins the records anew.
  forget() { this.diffs.length = this.joins.length = this.leaves.length = this.syncs = 0 }
}

const being = (key, name) => ({key, meta: {name}})
const keys = calls => calls.map(([key]) => key).sort()
let topics = 0
const newTopic = () => `room:presence-${line}-${++topics}`

await run("phoenix.js", version, {
  async presence_state_and_diffs() {
    const topic = newTopic()
    const ada = await Member.join(0, topic, being("ada", "phone"))
    await ada.sees("ada:phone")
    const ben = await Member.join(1, topic, being("ben", "desk"))
    for (const m of [ada, ben]) await m.sees("ada:phone ben:desk")
    same("who ada was told of", keys(ada.joins), ["ada", "ben"])
    same("who ben was told of", keys(ben.joins), ["ada", "ben"])
    same("references", ada.metas(), ben.metas())
    ada.forget()
    await pushed(ben.channel.leave())
    await ada.sees("ada:phone")
    same("who left", keys(ada.leaves), ["ben"])
    same("syncs, a diff each", ada.syncs, ada.diffs.length)
  },

  async several_metas_of_a_key() {
    const topic = newTopic()
    const phone = await Member.join(0, topic, being("ada", "phone"))
    await phone.sees("ada:phone")
    const tablet = await Member.join(1, topic, being("ada", "tablet"))
    for (const m of [phone, tablet]) await m.sees("ada:phone+tablet")
    await pushed(phone.channel.leave())
    await tablet.sees("ada:tablet")
    same("who left", tablet.leaves.map(([key, meta]) => [key, meta.name]), [["ada", "phone"]])
  },

  async presence_update() {
    const topic = newTopic()
    const ada = await Member.join(0, topic, being("ada", "here"))
    const ben = await Member.join(1, topic, being("ben", "here"))
    for (const m of [ada, ben]) await m.sees("ada:here ben:here")
    const [[, [before]]] = ada.metas()
    for (const m of [ada, ben]) m.forget()
    await pushed(ada.channel.push("presence_update", {name: "away"}))
    for (const m of [ada, ben]) {
      await m.sees("ada:away ben:here")
      const [[, [after]]] = m.metas()
      same("phx_ref_prev", after.phx_ref_prev, before.phx_ref)
      same("another phx_ref", after.phx_ref !== before.phx_ref, true)
      same("joins", m.joins, [["ada", after]])
      same("leaves", m.leaves, [["ada", before]])
    }
  },

  async reconnect_unseen_within_the_grace() {
    const topic = newTopic()
    const ada = await Member.join(2, topic, being("ada", "phone"))
    const ben = await Member.join(3, topic, being("ben", "desk"))
    for (const m of [ada, ben]) await m.sees("ada:phone ben:desk")
    for (const m of [ada, ben]) m.forget()
    ben.socket.conn.terminate()
    await until("ben is back and has his state", () => ben.joined > 1 && ben.syncs)
    // Whoever comes now is told of behind whatever there was to tell of that.
    await Member.join(3, topic, being("cleo", "late"))
    for (const m of [ada, ben]) {
      await m.sees("ada:phone ben:desk cleo:late")
      same("who joined", keys(m.joins), ["cleo"])
      same("who left", keys(m.leaves), [])
    }
  },

  async killed_gateways_members_leave_at_once() {
    const topic = newTopic()
    const ada = await Member.join(0, topic, being("ada", "phone"))
    const there = await Promise.all(Array.from({length: 10}, (_, i) => Member.join(1, topic, being(`m${i}`, "there"))))
    const all = ["ada:phone", ...there.map((_, i) => `m${i}:there`)].join(" ")
    for (const m of [ada, ...there]) await m.sees(all)
    ada.forget()
    const killed = Date.now()
    await ask("kill", 1)
    await ada.sees("ada:phone")
    const took = Date.now() - killed
    same("who left", keys(ada.leaves), there.map((_, i) => `m${i}`))
    same("diffs", ada.diffs.length, 1)
    if (took > PATIENCE / 3) throw new Error(`they left after ${took} ms`)
    await ask("start", 1)
    for (const m of [ada, ...there]) await m.sees(all)
    return `after ${took} ms`
  },
})
