// The page for WEST's clients: connect as a user in one of three formats, send commands, see what comes. It keeps nothing:
// when the connection ends the page loads again.

const formats = {
  json: {title: "JSON", hint: 'Such as {"event":"subscribe","channel":"ps1"} or {"event":"publish","channel":"ps1","data":"All"}. Ctrl+Enter sends.'},
  text: {title: "Text", hint: 'Such as: reg r1, send r1 "hello world", sub ps1, pub ps1 "All", ping, bye. Ctrl+Enter sends.'},
  pb: {title: "Protobuf"},
}
const format = new URLSearchParams(location.search).get("format")
const $ = id => document.getElementById(id)

// A record in Protobuf: five fields, each of a number, a length and bytes.
const fields = ["event", "channel", "from", "id", "data"]

export function encode(record) {
  const out = []
  fields.forEach((name, i) => {
    if (!record[name] && name !== "event") return
    const bytes = new TextEncoder().encode(record[name])
    out.push((i + 1) << 3 | 2)
    let n = bytes.length
    for (; n > 127; n >>>= 7) out.push(n & 127 | 128)
    out.push(n, ...bytes)
  })
  return new Uint8Array(out)
}

export function decode(bytes) {
  const record = {}
  const varint = () => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const b = bytes[at++]
      value += (b & 127) * 2 ** shift
      if (b < 128 || b === undefined) return value
    }
  }
  let at = 0
  while (at < bytes.length) {
    const key = varint(), length = varint()
    if ((key & 7) !== 2) throw new Error("not a record")
    const name = fields[(key >>> 3) - 1]
    if (name) record[name] = new TextDecoder().decode(bytes.subarray(at, at + length))
    at += length
  }
  return record
}

function log(text, kind) {
  const line = document.createElement("li")
  line.textContent = text
  line.className = kind
  const end = $("log")
  const follows = end.scrollTop + end.clientHeight >= end.scrollHeight - 4
  end.append(line)
  while (end.children.length > 1000) end.firstChild.remove()
  if (follows) end.scrollTop = end.scrollHeight
}

function state(name, text) {
  $("state").dataset.state = name
  $("state").textContent = text ?? name
}

function connect(event) {
  event.preventDefault()
  const url = new URL(`/websocket/${format}/${encodeURIComponent($("user").value)}`, location.href)
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:"
  url.searchParams.set("protocol", format)
  url.searchParams.set("keepalive", $("keepalive").checked)
  url.searchParams.set("timeout", $("timeout").value || "infinity")
  url.searchParams.set("drop", "true")
  url.searchParams.set("close_unmasked", "true")
  const token = new URLSearchParams(location.hash.slice(1)).get("token")
  if (token) url.searchParams.set("token", token)
  const ws = new WebSocket(url)
  ws.binaryType = "arraybuffer"
  state("connecting")
  ws.onopen = () => {
    state("connected", `connected as ${$("user").value}`)
    $("connect").hidden = true
    $("log").hidden = false
    const form = format === "pb" ? "record" : "line"
    $(form).hidden = false
    $(format === "pb" ? "event" : "message").focus()
    send = data => ws.send(data)
  }
  ws.onmessage = ({data}) => {
    if (typeof data === "string") return log(data, "received")
    if (format === "text") return log(new TextDecoder().decode(data), "received")
    try {
      log(JSON.stringify(decode(new Uint8Array(data))), "received")
    } catch (error) {
      log(String(error), "note")
    }
  }
  ws.onclose = ({code, reason}) => {
    log(`closed with ${code} ${reason}`, "note")
    state("disconnected", `disconnected: ${code} ${reason}`)
    setTimeout(() => location.reload(), 1500)
  }
}

let send

function sendLine(event) {
  event.preventDefault()
  const text = $("message").value.trim()
  if (!text) return
  send(text)
  log(text, "sent")
  $("message").value = ""
  $("message").focus()
}

function sendRecord(event) {
  event.preventDefault()
  const record = {}
  for (const name of ["event", "channel", "id", "data"]) {
    if ($(name).value) record[name] = $(name).value
  }
  send(encode(record))
  log(JSON.stringify(record), "sent")
  $("data").value = ""
  $("event").focus()
}

function begin() {
  const chosen = formats[format]
  if (!chosen) return
  document.querySelector(`#formats a[href$="=${format}"]`).setAttribute("aria-current", "page")
  $("title").textContent = `WEST in ${chosen.title}`
  $("hint").textContent = chosen.hint ?? ""
  $("connect").hidden = false
  $("user").focus()
  $("connect").onsubmit = connect
  $("line").onsubmit = sendLine
  $("record").onsubmit = sendRecord
  $("message").onkeydown = event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("line").requestSubmit()
  }
}

begin()
