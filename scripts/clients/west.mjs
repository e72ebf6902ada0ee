// Uses the gateways' page for WEST's clients in a real Chromium, with the keyboard: node west.mjs URL URL, with the
// addresses of two gateways of one cluster. CHROMIUM is the browser's path.

import {chromium} from "playwright-core"
import {PATIENCE, run, same, until} from "./harness.mjs"

const urls = process.argv.slice(2)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  timeout: 3 * PATIENCE,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
})
const problems = []

// User is one tab, connected in a format.
class User {
  static async open(url, link, name, {timeout, keepalive} = {}) {
    const user = new User()
    user.page = await (await browser.newContext()).newPage()
    user.page.setDefaultTimeout(PATIENCE)
    // The page loads again soon after its connection has ended: when the test lets it, which has read the log by then.
    await user.page.addInitScript(() => {
      const {setTimeout} = window
      window.setTimeout = (then, ms, ...args) => ms === 1500 ? (window.loadAgain = then, 0) : setTimeout(then, ms, ...args)
    })
    user.page.on("pageerror", error => problems.push(`${url}: ${error}`))
    user.page.on("console", message => {
      if (message.type() === "error" && !/ERR_|WebSocket connection|Failed to load resource/.test(message.text())) problems.push(`${url}: ${message.text()}`)
    })
    await user.page.goto(new URL("/west", url).href)
    await user.page.getByRole("link", {name: link, exact: true}).press("Enter")
    await until("the form", () => user.page.locator("#connect").isVisible())
    same("focus", await user.focus(), "user")
    const {keyboard} = user.page
    await keyboard.type(name)
    await keyboard.press("Tab")
    if (keepalive) await keyboard.press("Space")
    await keyboard.press("Tab")
    if (timeout) await keyboard.type(String(timeout))
    await keyboard.press("Enter")
    await until("connected", async () => (await user.page.locator("#state").textContent()) === `connected as ${name}`)
    return user
  }

  focus() { return this.page.evaluate(() => document.activeElement.id) }

  async say(text) {
    same("focus", await this.focus(), "message")
    await this.page.keyboard.type(text)
    await this.page.keyboard.press("Control+Enter")
  }

  // record types the four fields of a record.
  async record(...values) {
    same("focus", await this.focus(), "event")
    for (const value of values) {
      await this.page.keyboard.press("Control+A")
      await this.page.keyboard.press("Delete")
      if (value) await this.page.keyboard.type(value)
      await this.page.keyboard.press("Tab")
    }
    await this.page.keyboard.press("Enter")
  }

  lines() { return this.page.locator("#log li:not(.sent)").allTextContents() }
  hears(line) { return until(async () => `${line}; there are ${(await this.lines()).join(" | ")}`, async () => (await this.lines()).includes(line)) }
}

await run("west page", "chromium " + browser.version(), {
  async three_formats_on_two_gateways() {
    const j = await User.open(urls[0], "JSON", "u1", {keepalive: true, timeout: 60000})
    await j.hears('{"event":"connection_established","from":"west"}')
    await j.say('{"event":"subscribe","channel":"ps1"}')
    await j.hears('{"event":"subscription_succeeded","channel":"ps1","from":"west"}')
    const x = await User.open(urls[1], "Text", "u2")
    await x.hears("Welcome !")
    await x.say("reg r2")
    await x.hears("west r2:registration_succeeded")
    const p = await User.open(urls[1], "Protobuf", "u3")
    await p.hears('{"event":"connection_established","from":"west"}')
    await p.record("send", "r2", "7", "caf\u00e9")
    await p.hears('{"event":"sending_succeeded","channel":"r2","from":"west","id":"7"}')
    await x.hears("u3 r2:new_message caf\u00e9")
    await x.say('pub ps1 "All of you"')
    await j.hears('{"event":"new_message","channel":"ps1","from":"u2","data":"All of you"}')
  },
  async the_page_loads_again_when_the_connection_ends() {
    const x = await User.open(urls[0], "Text", "u4")
    await x.say("bye")
    await x.hears("closed with 1000 bye")
    await x.page.evaluate(() => { setTimeout(window.loadAgain, 50) })
    await until("the form again", () => x.page.locator("#connect").isVisible())
    same("the log is hidden", await x.page.locator("#log").isVisible(), false)
  },
  async a_timeout_ends_a_silent_user() {
    const x = await User.open(urls[0], "Text", "u5", {timeout: 2000})
    await x.hears("Anybody Else ?")
    await x.hears("closed with 4408 timeout")
  },
  async nothing_untoward() { same("problems", problems, []) },
})
