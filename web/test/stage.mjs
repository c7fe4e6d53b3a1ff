// What the cases stand on: databases by psql, the server as a process, a wire that can be cut.
import { execFile, spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { promisify } from "node:util";

/** Asks until the answer is something; the last answer or error is in the complaint. */
export async function until(what, look, within = 60_000) {
  const began = Date.now();
  let last;
  for (;;) {
    try {
      last = await look();
      if (last) return last;
    } catch (wrong) {
      last = wrong;
    }
    if (Date.now() - began > within) throw new Error(`waited for ${what}: ${last}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

export async function freePort() {
  const server = net.createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

export class Databases {
  constructor({ admin, source, target }) {
    Object.assign(this, { admin, source, target });
    this.running = [];
  }

  /** What a statement answers, as text. */
  async sql(url, text) {
    const { stdout } = await promisify(execFile)("psql", ["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", url, "-c", text]);
    return stdout.trim();
  }

  /** Says a statement again and again until the returned function is called. */
  repeat(url, text, every) {
    const psql = spawn("psql", ["-X", "-q", "-At", url], { stdio: ["pipe", "ignore", "ignore"] });
    psql.stdin.write(`${text} \\watch ${every}\n`);
    this.running.push(psql);
    return () => psql.kill();
  }

  /** Says something in a transaction that stays open until the returned function is called. */
  async hold(url, text) {
    const psql = spawn("psql", ["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", url], { stdio: ["pipe", "pipe", "ignore"] });
    this.running.push(psql);
    let said = "";
    psql.stdout.on("data", (data) => (said += data));
    psql.stdin.write(`BEGIN; ${text}; SELECT 'open';\n`);
    await until("the transaction", async () => said.includes("open"));
    return async () => {
      const gone = new Promise((done) => psql.once("exit", done));
      psql.stdin.end("ROLLBACK;\n");
      await gone;
    };
  }

  close() {
    for (const psql of this.running) psql.kill();
  }
}

/** `tidemark serve`, as a process that can be killed and started again. */
export class Server {
  constructor(program, state, port, file, more = []) {
    Object.assign(this, { program, state, port, file, more, log: "" });
    this.url = `http://127.0.0.1:${port}`;
  }

  async start() {
    this.child = spawn(this.program, ["serve", "--listen", `127.0.0.1:${this.port}`, "--state", this.state, "--auth", "token", "--server-file", this.file, ...this.more], { stdio: ["ignore", "ignore", "pipe"] });
    this.child.stderr.on("data", (text) => (this.log += text));
    await until("the server", async () => (await fetch(`${this.url}/livez`)).ok);
  }

  async token() {
    return (await readFile(`${this.state}/admin.token`, "utf8")).trim();
  }

  /** What the API answers to an administrator. */
  async get(path) {
    const response = await fetch(`${this.url}/api/v1${path}`, { headers: { authorization: `Bearer ${await this.token()}` } });
    return response.json();
  }

  async post(path, body) {
    const headers = { authorization: `Bearer ${await this.token()}`, "content-type": "application/json" };
    const response = await fetch(`${this.url}/api/v1${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    return response.json();
  }

  /** Reads along what the server sends to pages, until told to end. */
  async news() {
    const end = new AbortController();
    const headers = { authorization: `Bearer ${await this.token()}`, accept: "text/event-stream" };
    const { body } = await fetch(`${this.url}/api/v1/events/stream`, { headers, signal: end.signal });
    const read = { text: "", end: () => end.abort() };
    void (async () => {
      for await (const part of body.pipeThrough(new TextDecoderStream())) read.text += part;
    })().catch(() => undefined);
    return read;
  }

  /** Changes something, whatever it is by now. */
  async put(path, body) {
    const headers = { authorization: `Bearer ${await this.token()}`, "content-type": "application/json", "if-match": "*" };
    return fetch(`${this.url}/api/v1${path}`, { method: "PUT", headers, body: JSON.stringify(body) });
  }

  /** Deletes something, whatever it is by now. */
  async remove(path) {
    const headers = { authorization: `Bearer ${await this.token()}`, "if-match": "*" };
    return fetch(`${this.url}/api/v1${path}`, { method: "DELETE", headers });
  }

  /** As if the machine lost power. */
  async kill() {
    const gone = new Promise((done) => this.child.once("exit", done));
    this.child.kill("SIGKILL");
    await gone;
  }

  async stop() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = new Promise((done) => this.child.once("exit", done));
    this.child.kill("SIGTERM");
    await gone;
  }
}

/** A wire to a database that can be cut. */
export class Proxy {
  constructor(to) {
    this.to = to;
    this.sockets = new Set();
    this.isCut = false;
  }

  async listen() {
    this.server = net.createServer((socket) => {
      if (this.isCut) return socket.destroy();
      const other = net.connect(Number(this.to.port || 5432), this.to.hostname);
      for (const [a, b] of [[socket, other], [other, socket]]) {
        this.sockets.add(a);
        a.on("error", () => undefined);
        a.on("close", () => {
          this.sockets.delete(a);
          b.destroy();
        });
        a.pipe(b);
      }
    });
    await new Promise((done) => this.server.listen(0, "127.0.0.1", done));
    const url = new URL(this.to);
    url.hostname = "127.0.0.1";
    url.port = String(this.server.address().port);
    this.url = url.href;
  }

  cut() {
    this.isCut = true;
    for (const socket of this.sockets) socket.destroy();
  }

  mend() {
    this.isCut = false;
  }

  close() {
    this.cut();
    this.server.close();
  }
}

/** Takes messages, and answers as it is told. */
export class Receiver {
  constructor() {
    Object.assign(this, { received: [], status: 204 });
  }

  async listen() {
    this.server = http.createServer(async (request, response) => {
      let body = "";
      for await (const part of request) body += part;
      this.received.push({ path: request.url, body: JSON.parse(body) });
      response.writeHead(this.status).end();
    });
    await new Promise((done) => this.server.listen(0, "127.0.0.1", done));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
  }

  close() {
    this.server.closeAllConnections();
    this.server.close();
  }
}
