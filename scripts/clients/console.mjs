// Uses the gateways' page in a real Chromium, with the keyboard: node console.mjs DIR URL URL, with a directory for
// pictures and the pages of two gateways of one cluster. CHROMIUM is the browser's path.

import {join} from "node:path"
import {chromium} from "playwright-core"
import {PATIENCE, ask, run, same, until} from "./harness.mjs"

const [dir, ...urls] = process.argv.slice(2)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  timeout: 3 * PATIENCE,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
})

const problems = [] // what no tab may do: errors in scripts, refusals by the policy, requests to others

// Tab is one tab with the page of a gateway.
class Tab {
  static async open(url, options = {}) {
    const tab = new Tab()
    tab.page = await (await browser.newContext({viewport: {width: 1280, height: 800}, ...options})).newPage()
    tab.page.setDefaultTimeout(PATIENCE)
    tab.page.on("pageerror", error => problems.push(`${url}: ${error}`))
    tab.page.on("console", message => {
      // A browser reports failed connections, which these scenarios are about.
      if (message.type() === "error" && !/ERR_|WebSocket connection|Failed to load resource/.test(message.text())) problems.push(`${url}: ${message.text()}`)
    })
    tab.page.on("request", request => {
      if (new URL(request.url()).origin !== new URL(url).origin) problems.push(`${url}: asks for ${request.url()}`)
    })
    const answer = await tab.page.goto(url)
    same("status", answer.status(), 200)
    await tab.state("connected")
    return tab
  }

  state(text) { return until(`state ${text}`, async () => (await this.text("#state")).startsWith(text)) }
  text(selector) { return this.page.locator(selector).first().textContent() }
  lines() { return this.page.locator("#log li:not(.note) > :last-child").allTextContents() }
  positions() { return this.page.locator("#log .position").allTextContents() }

  // present is who the page says is there, in its order.
  present() { return this.page.locator("#present li").allTextContents() }
  async sees(...want) {
    await until(async () => `${want} are there; it shows ${await this.present()}`, async () => String(await this.present()) === String(want))
    same("count", await this.text("#count"), String(want.length))
  }

  // join types a topic into the field that has the focus when the page opens.
  async join(topic, name) {
    const {keyboard} = this.page
    await this.page.locator("#topic").focus()
    await keyboard.press("Control+A")
    await keyboard.type(topic)
    await keyboard.press("Enter")
    await until(`joined ${topic}`, async () => (await this.page.locator("#topics [aria-current=true] small").textContent()) === "joined")
    same("focus", await this.focus(), "line")
    if (!name) return
    await keyboard.press("Shift+Tab")
    await keyboard.type(name)
    await keyboard.press("Tab")
  }

  focus() { return this.page.evaluate(() => document.activeElement.id) }

  async say(line) {
    await this.page.keyboard.type(line)
    await this.page.keyboard.press("Enter")
  }

  async hears(...want) {
    await until(async () => `the lines ${want.join(" | ")}; there are ${(await this.lines()).join(" | ")}`, async () => (await this.lines()).length >= want.length)
    same("lines", await this.lines(), want)
  }
}

// openAll opens a tab on each gateway and joins them to a topic.
async function openAll(topic) {
  const tabs = []
  for (const [i, url] of urls.entries()) {
    const tab = await Tab.open(url)
    await tab.join(topic, ["Ada", "Ben", "Cleo"][i])
    tabs.push(tab)
  }
  return tabs
}

const close = tabs => Promise.all(tabs.map(tab => tab.page.context().close()))

async function publish(topic) {
  const headers = {"Content-Type": "application/json"}
  const answer = await fetch(new URL(`/api/topics/${topic}/publish`, urls[1]), {method: "POST", headers, body: '{"event":"say","payload":{"text":"knock"}}'})
  same("status of a publish", answer.status, 200)
}

async function picture(name, options, view) {
  const tab = await Tab.open(urls[0] + "#room:matrix", options)
  await until("lines", async () => (await tab.text("#topics small")) === "joined")
  const other = await Tab.open(urls[1])
  await other.join("room:matrix", "Trinity")
  await tab.page.locator("#name").fill("Neo")
  await tab.page.locator("#name").press("Tab")
  await other.say("The Matrix has you. This line came over the other gateway.")
  await tab.page.locator("#line").focus()
  await tab.say("red pill or blue pill?")
  await other.say("Follow the white rabbit: a longer line, to see how the page breaks what does not fit beside its position.")
  await tab.page.locator("#topic").fill("topics:nebuchadnezzar")
  await tab.page.keyboard.press("Enter")
  await until("the second topic", async () => (await tab.page.locator("#topics small").allTextContents()).every(s => s === "joined"))
  await tab.page.locator("#topics button").first().click()
  await until("three lines", async () => (await tab.lines()).length === 3)
  await view?.(tab)
  await tab.sees("Neo you", "Trinity")
  await until("a rate", async () => { // of what is published while the page looks
    await publish("topics:nebuchadnezzar")
    await new Promise(r => setTimeout(r, 100))
    return Number(await tab.text("#messages")) > 0
  })
  await until("the topic among the busiest", async () => (await tab.text("#busiest tbody")).includes("room:matrix"))
  await until("the cluster", async () => (await tab.text("#servers")).includes("owns this topic"))
  const wide = await tab.page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
  same("pixels too wide", Math.max(0, wide), 0)
  await tab.page.screenshot({path: join(dir, `console-${name}.png`), fullPage: true})
  await close([tab, other])
}

await run("console", `Chromium ${browser.version()}`, {
  async S2_two_tabs_on_two_gateways() {
    const [a, b] = await openAll("room:s2")
    await a.say("hello from ws1")
    await b.hears("Adahello from ws1")
    await b.say("hello from <b>ws2</b>")
    for (const tab of [a, b]) {
      await tab.hears("Adahello from ws1", "Benhello from <b>ws2</b>")
      same("positions", await tab.positions(), ["1", "2"])
    }
    same("gateways", [await a.text("#gateway"), await b.text("#gateway")], ["ws1", "ws2"])
    await a.sees("Ada you", "Ben")
    await b.sees("Ada", "Ben you")
    await b.page.locator("#name").fill("Zoe")
    await b.page.locator("#name").press("Tab")
    await a.sees("Ada you", "Zoe")
    await b.page.locator("#leave").press("Enter")
    await a.sees("Ada you")
    await close([a, b])
  },

  async the_cluster() {
    const [a, b] = await openAll("room:cluster")
    const row = async () => Object.fromEntries((await a.page.locator("#busiest tbody tr").allInnerTexts()).map(text => {
      const [topic, ...rest] = text.split("\t")
      return [topic, rest]
    }))["room:cluster"]
    await until(async () => `the topic is among the busiest: ${await row()}`, async () => /^ts-[ab],2,1$/.test(await row()))
    const servers = await a.page.locator("#servers tbody tr").allInnerTexts()
    same("servers", servers.map(text => /^ts-[ab]( owns this topic)?\t *\d+ %$/.test(text)), [true, true])
    same("owners", servers.filter(text => text.includes("owns this topic")).length, 1)
    same("shares", servers.map(text => Number(/(\d+) %/.exec(text)[1])).reduce((x, y) => x + y), 100)
    await a.say("counted")
    await until(async () => `a rate; there is ${await a.text("#messages")}`, async () => Number(await a.text("#messages")) > 0)
    const c = await Tab.open(urls[1]) // stays on b's gateway, so that the topic stays among its busiest
    await c.join("room:cluster", "Cleo")
    await b.page.locator("#leave").press("Enter")
    await b.page.locator("#busiest button", {hasText: "room:cluster"}).press("Enter")
    await until("joined again by the button", async () => (await b.text("#title")) === "room:cluster")
    await b.sees("Ada", "Ben you", "Cleo")
    await close([a, b, c])
  },

  async S3_a_page_that_speaks_V1_by_hand() {
    const [a, b] = await openAll("room:1")
    const heard = await b.page.evaluate(() => new Promise((resolve, reject) => {
      const ws = new WebSocket(`ws://${location.host}/socket/websocket`)
      const heard = []
      ws.onopen = () => {
        ws.send(JSON.stringify({topic: "room:1", event: "phx_join", payload: {}, ref: 0}))
        ws.send(JSON.stringify({topic: "room:1", event: "shout", payload: {message: "hey"}, ref: 0}))
      }
      ws.onmessage = e => {
        heard.push(JSON.parse(e.data))
        if (heard.at(-1).event === "shout") resolve(heard)
      }
      ws.onclose = () => reject(new Error("closed"))
    }))
    const reply = {topic: "room:1", event: "phx_reply", payload: {response: {}, status: "ok"}, ref: 0}
    const sorted = o => Object.fromEntries(Object.entries(o).sort())
    same("heard", heard.map(sorted), [reply, reply, {topic: "room:1", event: "shout", payload: {message: "hey"}, ref: null}].map(sorted))
    for (const tab of [a, b]) await tab.hears('shout{"message":"hey"}')
    await close([a, b])
  },

  async S4_S5_a_gateway_is_killed_and_comes_back() {
    const [a, b] = await openAll("room:s5")
    await a.say("one")
    await b.hears("Adaone")
    await ask("kill", 1)
    await b.state("connection lost")
    await b.say("typed while my gateway was down")
    const want = ["Adaone"]
    for (const word of ["two", "three", "four"]) {
      await a.say(word)
      want.push(`Ada${word}`)
      await a.hears(...want)
    }
    await ask("start", 1)
    await b.state("connected")
    want.push("Bentyped while my gateway was down")
    await b.hears(...want)
    await a.hears(...want)
    await b.say("back")
    want.push("Benback")
    for (const tab of [a, b]) {
      await tab.hears(...want)
      same("positions", await tab.positions(), want.map((_, i) => String(i + 1)))
      same("notes", await tab.page.locator("#log .note").count(), 1)
    }
    await a.sees("Ada you", "Ben")
    await b.sees("Ada", "Ben you")
    await close([a, b])
  },

  async S6_a_third_gateway_joins() {
    const [a, b] = await openAll("room:s6")
    await a.say("two of us")
    await b.hears("Adatwo of us")
    const {url} = await ask("add")
    urls.push(url.replace("ws:", "http:").replace(/socket$/, ""))
    const c = await Tab.open(urls[2])
    await c.join("room:s6", "Cleo")
    await c.say("three of us")
    await a.hears("Adatwo of us", "Cleothree of us")
    await b.hears("Adatwo of us", "Cleothree of us")
    await c.hears("Cleothree of us")
    await close([a, b, c])
  },

  async messages_and_errors() {
    const [a, b] = await openAll("room:raw")
    const {page} = b
    await page.locator("[value=messages]").check()
    await page.locator("#event").fill("deed")
    for (const [payload, outcome] of [
      ['{"n": [1, 2.50]}', /^published at [0-9a-z]+:1$/],
      ["{", /^payload: /],
      ["[]", /^not published: bad publish: payload: want an object$/],
    ]) {
      await page.locator("#payload").fill(payload)
      await page.locator("#payload").press("Control+Enter")
      await until(`outcome ${outcome}`, async () => outcome.test(await b.text("#outcome")))
    }
    await a.hears('deed{"n":[1,2.5]}')
    await page.locator("#topic").fill("nocolon")
    await page.locator("#topic").press("Enter")
    await until("refusal", async () => (await b.text("#outcome")) === "nocolon: unmatched topic")
    same("topics", await page.locator("#topics button span").allTextContents(), ["room:raw"])
    await page.locator("#leave").press("Enter")
    same("title", await b.text("#title"), "No topic joined")
    same("may send", await page.locator("#publish button").isEnabled(), false)
    await page.locator("#connect").press("Enter")
    await b.state("disconnected")
    await page.locator("#connect").press("Enter")
    await b.state("connected")
    await close([a, b])
  },

  picture_light: () => picture("light", {colorScheme: "light"}),
  picture_dark: () => picture("dark", {colorScheme: "dark"}, tab => tab.page.locator("[value=messages]").check()),
  picture_phone: () => picture("phone", {viewport: {width: 390, height: 844}, deviceScaleFactor: 2, isMobile: true, hasTouch: true}),

  async nothing_untoward() { same("problems", problems, []) },
})
