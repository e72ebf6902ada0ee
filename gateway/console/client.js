// A client of Phoenix Channels V2 with what a gateway adds to them: positions, resume, publish ids.
//
// A socket reconnects until disconnect() is called. A channel joins again whenever it has to, since the position of its
// last message, so what was missed comes first, once and in order. A publish is sent again, with the same id, until it
// is answered for good.

const BEAT = 25_000 // ms between heartbeats; one unanswered when the next is due ends the connection
const STEADY = 5_000 // ms after which a connection counts as good and waits begin small again
const ANSWER = 10_000 // ms that a join waits for its reply
const OUTBOX = 100 // publishes that may wait in a channel
const AGAIN = new Set(["busy", "unavailable", "unknown_outcome"])

// backoff returns the milliseconds to wait before try n, half of them by chance, so that clients cut together do not come back together.
const backoff = n => Math.min(10_000, 250 * 2 ** n) * (0.5 + Math.random() / 2)

const newID = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, "0")).join("")

export class Socket {
  #ws = null
  #wanted = false
  #ref = 0
  #tries = 0
  #openedAt = Infinity
  #retry
  #beat
  #unanswered = null
  #channels = new Map()

  // onState gets "connecting", "connected", "waiting" (with the ms to the next try and the close code) or "disconnected".
  constructor(url, onState, token = "") {
    this.protocols = token === "" ? [] : ["phoenix", "base64url.bearer.phx." + btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")]
    this.url = url
    this.onState = onState
  }

  connect() {
    this.#wanted = true
    clearTimeout(this.#retry)
    if (this.#ws) return
    this.onState("connecting")
    const ws = this.#ws = new WebSocket(`${this.url}/websocket?vsn=2.0.0`, this.protocols)
    ws.binaryType = "arraybuffer"
    ws.onopen = () => {
      this.#openedAt = Date.now()
      this.#unanswered = null
      this.#beat = setInterval(() => this.#heartbeat(), BEAT)
      this.onState("connected")
      for (const channel of this.#channels.values()) channel.rejoin()
    }
    ws.onmessage = message => this.#receive(message.data)
    ws.onclose = close => this.#lost(ws, close.code)
  }

  disconnect() {
    this.#wanted = false
    clearTimeout(this.#retry)
    const ws = this.#ws
    this.#lost(ws, 1000)
    ws?.close(1000)
    this.onState("disconnected")
  }

  // channel returns a joining channel, present under a key with a meta. on has message(event, payload, position),
  // joined({since, recovered}, resumed), present(metas), state(text) and refused(reason); a refused channel is not tried again.
  channel(topic, key, meta, on) {
    const channel = new Channel(this, topic, key, meta, on)
    this.#channels.set(topic, channel)
    channel.rejoin()
    return channel
  }

  remove(channel) { this.#channels.delete(channel.topic) }
  get open() { return this.#ws?.readyState === WebSocket.OPEN }
  nextRef() { return String(++this.#ref) }
  send(frame) { if (this.open) this.#ws.send(JSON.stringify(frame)) }

  #heartbeat() {
    if (this.#unanswered) {
      const ws = this.#ws
      this.#lost(ws, 4000) // not waiting for a close that may take minutes
      ws.close()
      return
    }
    this.#unanswered = this.nextRef()
    this.send([null, this.#unanswered, "phoenix", "heartbeat", {}])
  }

  #lost(ws, code) {
    if (!ws || ws !== this.#ws) return
    this.#ws = null
    clearInterval(this.#beat)
    if (Date.now() - this.#openedAt > STEADY) this.#tries = 0
    this.#openedAt = Infinity
    for (const channel of this.#channels.values()) channel.cut()
    if (!this.#wanted) return
    const wait = backoff(this.#tries++)
    this.#retry = setTimeout(() => this.connect(), wait)
    this.onState("waiting", wait, code)
  }

  #receive(data) {
    const [joinRef, ref, topic, event, payload] = typeof data === "string" ? JSON.parse(data) : decodeBinary(data)
    if (topic === "phoenix") {
      if (ref === this.#unanswered) this.#unanswered = null
      return
    }
    this.#channels.get(topic)?.receive(joinRef, ref, event, payload)
  }
}

function decodeBinary(data) {
  const [, ...lengths] = new Uint8Array(data, 0, 4)
  let at = 4
  const [joinRef, topic, event] = lengths.map(n => new TextDecoder().decode(new Uint8Array(data, (at += n) - n, n)))
  return [joinRef, null, topic, event, data.slice(at)]
}

class Channel {
  #joinRef = null
  #joined = false
  #tries = 0
  #timer
  #outbox = new Map() // by publish id, in their order
  #refs = new Map() // ref → publish id, of this join

  #present = new Map() // phx_ref → meta, of who is there

  constructor(socket, topic, key, meta, on) {
    Object.assign(this, {socket, topic, key, meta, on, since: null})
  }

  rejoin() {
    this.cut()
    if (!this.socket.open) return
    this.#joinRef = this.socket.nextRef()
    this.on.state("joining")
    this.socket.send([this.#joinRef, this.#joinRef, this.topic, "phx_join", {since: this.since, presence: {key: this.key, meta: this.meta}}])
    this.#timer = setTimeout(() => this.rejoin(), ANSWER)
  }

  // cut ends the present join; what comes for it from now on is not this channel's.
  cut() {
    clearTimeout(this.#timer)
    this.#joinRef = null
    this.#joined = false
    this.#refs.clear()
    this.on.state("waiting")
  }

  leave() {
    if (this.#joinRef) this.socket.send([this.#joinRef, this.socket.nextRef(), this.topic, "phx_leave", {}])
    this.#end(new Error("left"))
  }

  // publish resolves when the message has its place, and rejects when it has certainly none.
  publish(event, payload) {
    if (this.#outbox.size >= OUTBOX) return Promise.reject(new Error("too many messages wait"))
    return new Promise((resolve, reject) => {
      const id = newID()
      this.#outbox.set(id, {event, payload, resolve, reject})
      this.#push(id)
    })
  }

  #push(id) {
    const item = this.#outbox.get(id)
    if (!item || !this.#joined) return
    const ref = this.socket.nextRef()
    this.#refs.set(ref, id)
    this.socket.send([this.#joinRef, ref, this.topic, "publish", [item.event, item.payload, {id}]])
  }

  receive(joinRef, ref, event, payload) {
    if (event === "phx_reply") {
      if (ref === this.#joinRef) this.#answered(payload)
      else this.#published(ref, payload)
    } else if (event === "presence_diff") {
      if (this.#joined) this.#presence(payload)
    } else if (joinRef !== this.#joinRef) {
      return // of an older join
    } else if (event === "presence_state") {
      this.#present.clear()
      this.#presence({joins: payload, leaves: {}})
    } else if (event === "phx_error" || event === "phx_close") {
      this.#rejoinLater()
    } else {
      if (ref) this.since = ref
      this.on.message(event, payload, ref)
    }
  }

  // become changes the meta that others see, once the channel is joined.
  become(meta) {
    this.meta = meta
    if (this.#joined) this.socket.send([this.#joinRef, this.socket.nextRef(), this.topic, "presence_update", meta])
  }

  // A diff is a broadcast, without a join_ref; one that comes before the state has nothing that the state lacks.
  #presence({joins, leaves}) {
    for (const {metas} of Object.values(leaves)) for (const meta of metas) this.#present.delete(meta.phx_ref)
    for (const [key, {metas}] of Object.entries(joins)) for (const meta of metas) this.#present.set(meta.phx_ref, {...meta, key})
    this.on.present([...this.#present.values()])
  }

  #answered({status, response}) {
    clearTimeout(this.#timer)
    if (status === "ok") {
      const resumed = this.since !== null
      this.#joined = true
      this.#tries = 0
      this.since = response.since
      this.on.joined(response, resumed)
      for (const id of this.#outbox.keys()) this.#push(id)
    } else if (AGAIN.has(response.reason)) {
      this.#rejoinLater()
    } else if (response.reason === "too many presences" && this.meta) {
      this.meta = null // then only told of others
      this.rejoin()
    } else {
      this.#end(new Error("not joined"))
      this.on.refused(response.detail ?? response.reason ?? response)
    }
  }

  #rejoinLater() {
    this.cut()
    this.#timer = setTimeout(() => this.rejoin(), backoff(this.#tries++))
  }

  #published(ref, {status, response}) {
    const id = this.#refs.get(ref)
    const item = this.#outbox.get(id)
    this.#refs.delete(ref)
    if (!item) return
    if (status !== "ok" && AGAIN.has(response.reason)) {
      setTimeout(() => this.#push(id), backoff(1))
      return
    }
    this.#outbox.delete(id)
    if (status === "ok") item.resolve(response)
    else item.reject(new Error(response.detail || response.reason))
  }

  #end(error) {
    this.cut()
    this.socket.remove(this)
    for (const item of this.#outbox.values()) item.reject(error)
    this.#outbox.clear()
  }
}
