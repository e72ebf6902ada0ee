// A load balancer for HTTP that refuses WebSockets, as some networks do, and a browser's XMLHttpRequest as far as
// phoenix.js needs it.

import http from "node:http"

// Balancer sends each request to the next of its backends (host:port), past one that cannot be reached or is to get none.
export class Balancer {
  static async start(backends) {
    const balancer = new Balancer()
    balancer.backends = backends
    balancer.next = 0 // who gets the next request
    balancer.out = -1 // the backend that gets no requests
    balancer.home = -1 // the backend that gets the requests without a token, whoever is next
    balancer.served = backends.map(() => 0) // answers by backend
    balancer.upgrades = 0 // refused
    balancer.server = http.createServer((request, response) => {
      const body = []
      request.on("data", chunk => body.push(chunk))
      request.on("end", () => balancer.forward(request, Buffer.concat(body), response, balancer.next++))
    })
    balancer.server.on("upgrade", (_, socket) => {
      balancer.upgrades++
      socket.end("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    })
    await new Promise(resolve => balancer.server.listen(0, "127.0.0.1", resolve))
    return balancer
  }

  get url() { return `ws://127.0.0.1:${this.server.address().port}/socket` }

  forward(request, body, response, turn, tries = this.backends.length) {
    let i = turn % this.backends.length
    if (this.home >= 0 && !request.url.includes("token=")) i = this.home
    if (i === this.out) i = ++turn % this.backends.length
    const [hostname, port] = this.backends[i].split(":")
    const out = http.request({hostname, port, method: request.method, path: request.url, headers: request.headers, agent: false}, answer => {
      this.served[i]++
      response.writeHead(answer.statusCode, answer.headers)
      answer.pipe(response)
      answer.on("error", () => response.destroy())
    })
    out.on("error", error => {
      if (error.code === "ECONNREFUSED" && tries > 1) return this.forward(request, body, response, turn + 1, tries - 1)
      response.destroy()
    })
    response.on("close", () => out.destroy())
    out.end(body)
  }
}

export class XMLHttpRequest {
  readyState = 0
  responseText = ""
  headers = {}

  open(method, url) { Object.assign(this, {method, url}) }
  setRequestHeader(name, value) { this.headers[name] = String(value) }

  send(body) {
    this.controller = new AbortController()
    if (this.timeout) setTimeout(() => this.readyState < 4 && this.end(this.ontimeout), this.timeout).unref()
    fetch(this.url, {method: this.method, headers: this.headers, body, signal: this.controller.signal})
      .then(response => response.text())
      .then(text => {
        this.responseText = text
        this.end()
      }, () => this.end(this.onerror))
  }

  abort() { this.end() }

  // end reports the end of the request, once, and then what else there is to report.
  end(then) {
    if (this.readyState === 4) return
    this.readyState = 4
    this.controller?.abort()
    this.onreadystatechange?.()
    then?.()
  }
}
