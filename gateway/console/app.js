// The page: topics at the left, the messages of the shown one in the middle, this gateway at the right.

import {Socket} from "./client.js"

const KEPT = 500 // messages shown per topic
const PRESENT = 50 // names shown of those who are there
const REFRESH = 3_000 // ms between looks at the cluster

const $ = id => document.getElementById(id)

function element(name, attributes = {}, ...children) {
  const e = Object.assign(document.createElement(name), attributes)
  e.append(...children)
  return e
}

// topics are the joined ones, by name: {channel, state, entries, unread, present}. An entry is a message {event, payload,
// position} or a note {note, lost}.
const topics = new Map()
let shown = null // name of the topic in the middle
let mode = "chat"
let online = false

// me is this tab's key in presences; a tab keeps it when it is loaded again.
const me = sessionStorage.getItem("presence") ?? crypto.getRandomValues(new Uint32Array(2)).join("-")
sessionStorage.setItem("presence", me)
let gateway = "" // its name
const myMeta = () => ({name: $("name").value || "guest", ...gateway && {gateway}})

// Where clients need tokens, the page's address has one behind ?token=.
const token = new URLSearchParams(location.search).get("token") ?? ""
const headers = token === "" ? {} : {authorization: `Bearer ${token}`}
const socket = new Socket(`${location.protocol.replace("http", "ws")}//${location.host}/socket`, showState, token)

function showState(state, wait, code) {
  online = state !== "disconnected"
  const text = state === "waiting" ? `connection lost (code ${code}); next try in ${(wait / 1000).toFixed(1)} s` : state
  $("state").dataset.state = state
  $("state").textContent = text === "connecting" ? "connecting …" : text
  $("connect").textContent = online ? "Disconnect" : "Connect"
}

function joinTopic(name) {
  if (!topics.has(name)) {
    const topic = {name, state: "waiting", entries: [], unread: 0, present: []}
    topics.set(name, topic)
    topic.channel = socket.channel(name, me, myMeta(), {
      present: metas => { topic.present = metas; if (topic.name === shown) showPresent() },
      message: (event, payload, position) => add(topic, {event, payload, position}),
      joined: (response, resumed) => joined(topic, response, resumed),
      state: state => { topic.state = state; showTopics() },
      refused: reason => { forget(name); say(`${name}: ${reason}`, true) },
    })
  }
  show(name)
}

// showPresent lists who is there: the names, sorted, this tab marked.
function showPresent() {
  const present = topics.get(shown)?.present ?? []
  $("here").hidden = present.length === 0
  $("count").textContent = present.length
  const names = present.map(({key, name, gateway}) => ({name: String(name ?? key), gateway, mine: key === me}))
  names.sort((a, b) => a.name.localeCompare(b.name))
  $("present").replaceChildren(...names.slice(0, PRESENT).map(({name, gateway, mine}) =>
    element("li", {className: mine ? "mine" : "", title: gateway ? `on ${gateway}` : ""}, name, ...mine ? [element("small", {}, " you")] : [])),
  ...names.length > PRESENT ? [element("li", {}, `and ${names.length - PRESENT} more`)] : [])
}

function joined(topic, {since, recovered}, resumed) {
  topic.state = "joined"
  if (!resumed) add(topic, {note: `joined at position ${since}`})
  else if (!recovered) add(topic, {note: "back, but messages were lost meanwhile", lost: true})
  showTopics()
}

function forget(name) {
  topics.delete(name)
  if (shown === name) show(topics.keys().next().value ?? null)
  else showTopics()
}

function add(topic, entry) {
  topic.entries.push(entry)
  const over = topic.entries.length > KEPT
  if (over) topic.entries.shift()
  if (topic.name !== shown) {
    if (!entry.note) topic.unread++
    showTopics()
    return
  }
  const log = $("log")
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40
  if (over) log.firstChild.remove()
  log.append(line(entry))
  if (atEnd) log.scrollTop = log.scrollHeight
}

function line({event, payload, position, note, lost}) {
  if (note) return element("li", {className: lost ? "note lost" : "note"}, element("span", {}, note))
  const place = element("span", {className: "position", title: position ?? "binary messages have no position"}, position?.split(":")[1] ?? "–")
  const binary = payload instanceof ArrayBuffer
  if (mode === "chat" && !binary && typeof payload.text === "string") {
    return element("li", {}, place, element("span", {}, element("b", {}, String(payload.from ?? "?")), payload.text))
  }
  const text = binary ? `${payload.byteLength} bytes` : JSON.stringify(payload)
  return element("li", {}, place, element("span", {}, element("b", {}, event), element("code", {}, text)))
}

function show(name) {
  shown = name
  $("title").textContent = name ?? "No topic joined"
  const topic = topics.get(name)
  if (topic) topic.unread = 0
  $("log").replaceChildren(...(topic?.entries ?? []).map(line))
  $("log").scrollTop = $("log").scrollHeight
  showPresent()
  $("leave").disabled = !topic
  for (const form of [$("chat"), $("publish")]) form.querySelector("button").disabled = !topic
  history.replaceState(null, "", name === null ? location.pathname : "#" + encodeURIComponent(name))
  showTopics()
  showCluster()
}

// showTopics changes what differs and leaves the buttons where they are, so that the keyboard's focus stays.
function showTopics() {
  const list = $("topics")
  const present = new Map(Array.from(list.children, item => [item.dataset.topic, item]))
  for (const [name, item] of present) if (!topics.has(name)) item.remove()
  for (const topic of topics.values()) {
    let item = present.get(topic.name)
    if (!item) {
      const button = element("button", {type: "button", onclick: () => show(topic.name)}, element("span", {}, topic.name), element("small"))
      item = element("li", {}, button)
      item.dataset.topic = topic.name
      list.append(item)
    }
    item.firstChild.setAttribute("aria-current", topic.name === shown)
    item.querySelector("small").textContent = topic.state !== "joined" ? topic.state : topic.unread ? `${topic.unread} new` : "joined"
  }
}

function say(text, bad = false) {
  $("outcome").textContent = text
  $("outcome").dataset.bad = bad
}

async function publish(event, payload) {
  say("sending …")
  try {
    const {position} = await topics.get(shown).channel.publish(event, payload)
    say(`published at ${position}`)
  } catch (error) {
    say(`not published: ${error.message}`, true)
  }
}

function showView(view) {
  $("gateway").textContent = view.gateway
  $("ready").textContent = view.ready ? "yes" : "no: topic servers are missing"
  $("ring").textContent = view.ring_version
  $("lanes").textContent = `${view.lanes_up} of ${view.lanes}`
  rows("servers", view.topic_servers.map(({id, weight, share}) => [
    [weight === 1 ? id : `${id} (weight ${weight})`, ...id === view.owner ? [element("small", {}, " owns this topic")] : []],
    [element("meter", {value: share, title: "share of all topics"}), ` ${Math.round(share * 100)} %`],
  ]))
  $("sessions").textContent = view.sessions
  $("subscribed").textContent = view.topics
  $("channels").textContent = view.channels
  showRates(view)
  rows("busiest", (view.busiest ?? []).map(({topic, owner, here, subscribers}) => [
    [element("button", {type: "button", title: `join ${topic}`, onclick: () => joinTopic(topic)}, topic)], [owner], [String(subscribers ?? "–")], [String(here)],
  ]))
  $("busiest-note").textContent = !view.busiest ? "Not shown: that needs API_OPEN=true or a token." : view.busiest.length === 0
    ? "None has subscribers on this gateway." : `Of the topics on ${view.gateway}${view.busiest_of_all ? "" : ", some of them"}; all: on all gateways.`
  if (gateway !== view.gateway) {
    gateway = view.gateway
    becomeKnown()
  }
}

// rows fills a table's body with rows of cells. A button that has the focus keeps it.
function rows(id, list) {
  const body = $(id).tBodies[0]
  const focused = body.contains(document.activeElement) ? document.activeElement.textContent : null
  body.replaceChildren(...list.map(cells => element("tr", {}, ...cells.map(cell => element("td", {}, ...cell)))))
  if (focused !== null) Array.from(body.querySelectorAll("button")).find(b => b.textContent === focused)?.focus()
}

let last = null // the counts of the last look
function showRates(view) {
  const now = performance.now()
  for (const name of ["publishes", "messages", "deliveries"]) {
    const seconds = last && (now - last.at) / 1000
    // A gateway that was restarted counts from 0 again.
    const known = last && last.view.gateway === view.gateway && view[name] >= last.view[name] && seconds > 0.5
    if (known) $(name).textContent = ((view[name] - last.view[name]) / seconds).toFixed(1)
    else if (!last) $(name).textContent = "–"
  }
  if (!last || now - last.at > 500) last = {at: now, view}
}

// becomeKnown tells all topics who this tab is now.
function becomeKnown() {
  for (const {channel} of topics.values()) channel.become(myMeta())
}

let looking = null // the look at the cluster that is under way
async function showCluster() {
  looking?.abort()
  const look = looking = new AbortController()
  try {
    const answer = await fetch("/api/cluster" + (shown ? `?topic=${encodeURIComponent(shown)}` : ""), {signal: look.signal, headers})
    if (!answer.ok) throw new Error(answer.statusText)
    const view = await answer.json()
    showView(view)
    document.title = `ringcast · ${view.gateway}`
  } catch (error) {
    if (error.name !== "AbortError") $("ready").textContent = "not reachable"
  }
}

const on = (id, event, handle) => $(id).addEventListener(event, e => {
  if (event === "submit") e.preventDefault()
  handle(e)
})

on("connect", "click", () => online ? socket.disconnect() : socket.connect())
on("join", "submit", () => {
  say("")
  joinTopic($("topic").value.trim())
  $(mode === "chat" ? "line" : "payload").focus()
})
on("name", "change", becomeKnown)
on("leave", "click", () => {
  topics.get(shown).channel.leave()
  forget(shown)
  $("topic").focus()
})
on("mode", "change", e => {
  mode = e.target.value
  $("chat").hidden = mode !== "chat"
  $("publish").hidden = mode === "chat"
  show(shown)
})
on("chat", "submit", () => {
  publish("line", {from: $("name").value, text: $("line").value})
  $("line").value = ""
})
on("publish", "submit", () => {
  let payload
  try {
    payload = JSON.parse($("payload").value)
  } catch (error) {
    say(`payload: ${error.message}`, true)
    return
  }
  publish($("event").value, payload)
})
on("payload", "keydown", e => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) $("publish").requestSubmit()
})
addEventListener("online", () => online && socket.connect())

// hashTopic returns the topic in the address, "" if there is none.
function hashTopic() {
  try {
    return decodeURIComponent(location.hash.slice(1))
  } catch {
    return ""
  }
}

$("name").value = "guest" + Math.floor(Math.random() * 900 + 100)
socket.connect()
const first = hashTopic()
show(null)
if (first) joinTopic(first)
setInterval(() => document.hidden || showCluster(), REFRESH)
