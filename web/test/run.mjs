// The pages in a real browser, against a real server with real databases.
//
//   node run.mjs '{"tidemark": PROGRAM, "admin": URL, "source": URL, "target": URL, "directory": DIR, "images": DIR}'
//
// `admin` may do everything on the databases' server. One line for each case: `ok NAME` or
// `FAILED NAME: why`. With `images`, what the pages look like is written there.
import { readFile, mkdir, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { Databases, Proxy, Receiver, Server, freePort, until } from "./stage.mjs";
import cases from "./cases.mjs";

const given = JSON.parse(process.argv[2]);
const axe = await readFile(new URL("../node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const browserPath = ["/usr/bin/chromium", "/usr/bin/chromium-headless-shell", "/usr/bin/google-chrome"].find((path) => existsSync(path));
if (given.images) await mkdir(given.images, { recursive: true });

const databases = new Databases(given);
const proxy = new Proxy(new URL(given.source));
await proxy.listen();
const receiver = new Receiver();
await receiver.listen();
const file = join(given.directory, "server.toml");
await writeFile(file, `version = 1\n[notify]\nallow = ["127.0.0.1"]\n[[notifier]]\nname = "ops"\ntype = "webhook"\nurl = "${receiver.url}/hooks/path-secret"\nsecret = "hunter2"\n`);
const server = new Server(given.tidemark, join(given.directory, "state"), await freePort(), file);
await server.start();

const browser = await chromium.launch({
  executablePath: browserPath,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const requests = new Set();
const complaints = [];
/** What the API answered, to which role. */
const answers = [];

/** A browser of its own, as far as cookies go. */
async function browsing(role = "admin", more = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light", locale: "en-GB", timezoneId: "UTC", reducedMotion: "reduce", ...more });
  context.on("request", (request) => requests.add(new URL(request.url()).origin));
  context.on("response", (response) => {
    const { pathname } = new URL(response.url());
    // The stream of news has no end; who wants to see it reads it for themselves.
    if (!pathname.startsWith("/api/v1/") || pathname.endsWith("/events/stream")) return;
    // Of a page that was left the browser keeps nothing.
    response.text().then((text) => answers.push({ role, what: pathname, text }), () => undefined);
  });
  if (process.env.DIST) {
    // While one works on the pages: as they are in dist/, whatever the program has in it. Which addresses are pages is for the program to say.
    const dist = new URL("../dist/", import.meta.url);
    await context.route("**/assets/*", (route) => route.fulfill({ path: new URL(new URL(route.request().url()).pathname.slice("/assets/".length), dist).pathname }));
    await context.route((url) => !/^\/(assets|api\/v1)\//.test(url.pathname), async (route) => {
      const response = await route.fetch();
      await route.fulfill(response.ok() ? { path: new URL("index.html", dist).pathname, contentType: "text/html; charset=utf-8" } : { response });
    });
  }
  return context;
}
const context = await browsing();
await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: server.url });
const page = await context.newPage();
page.on("console", (message) => {
  if (/Content Security Policy|Uncaught/.test(message.text())) complaints.push(message.text());
});
page.on("pageerror", (wrong) => complaints.push(String(wrong)));
page.on("dialog", (dialog) => {
  complaints.push(`a dialog of the browser: ${dialog.message()}`);
  void dialog.dismiss();
});
page.setDefaultTimeout(20_000);

/** What axe finds, in both themes. */
async function accessibleOn(page, where) {
  for (const theme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: theme });
    // Evaluated as the tools of a browser do, past the policy that pages are under.
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    const said = violations.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.any[0]?.message ?? ""}`).slice(0, 3).join(" | ")}`);
    if (said.length) throw new Error(`axe on ${where}, ${theme}: ${said.join("; ")}`);
  }
  await page.emulateMedia({ colorScheme: "light" });
}

/** The page as one of this role sees it, and what the API answers them. */
async function as(role, path, look) {
  const { token, id } = await server.post("/tokens", { name: `one ${role}`, role });
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const own = await browsing(role);
  try {
    await own.request.post(`${server.url}/api/v1/session`, { headers });
    const theirs = await own.newPage();
    await theirs.goto(`${server.url}${path}`);
    const asked = async (method, path, body) => {
      const response = await fetch(`${server.url}/api/v1${path}`, { method, headers, body });
      const text = await response.text();
      answers.push({ role, what: `${method} ${path}`, text });
      return { status: response.status, text };
    };
    await look(theirs, asked, headers);
  } finally {
    await own.close();
    await server.remove(`/tokens/${id}`);
  }
}

const stage = {
  page, context, server, databases, proxy, receiver, requests, complaints, until,
  async shot(name, of = page) {
    if (given.images) await of.screenshot({ path: join(given.images, `${name}.png`), animations: "disabled" });
  },
  /** What else the run writes down beside the pictures. */
  async record(name, text) {
    if (given.images) await writeFile(join(given.images, name), text);
  },
  accessible: (where) => accessibleOn(page, where), accessibleOn,
  async open(path) {
    await page.goto(`${server.url}${path}`);
  },
  async signedIn(context) {
    await context.request.post(`${server.url}/api/v1/session`, { headers: { authorization: `Bearer ${await server.token()}` } });
  },
  browsing, answers, directory: given.directory,
  as,
  asViewer: (path, look) => as("viewer", path, (theirs, asked) => look(theirs, (action) => asked("POST", action))),
};

let failed = 0;
for (const run of cases) {
  const name = run.name;
  // ONLY=u04,u05: those alone, while one works on them.
  if (process.env.ONLY && !process.env.ONLY.split(",").some((only) => name.startsWith(only))) continue;
  const began = Date.now();
  try {
    await run(stage);
    console.log(`ok ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  } catch (wrong) {
    failed += 1;
    console.log(`FAILED ${name}: ${wrong.stack ?? wrong}`);
    await page.screenshot({ path: join(given.directory, `${name}.png`) }).catch(() => undefined);
    console.log((await page.locator("main").innerText().catch(() => "")).slice(0, 1_500));
    // What follows stands on what went before.
    break;
  }
}
await browser.close();
databases.close();
await server.stop();
proxy.close();
receiver.close();
if (failed) console.log(server.log.slice(-4_000));
process.exit(failed ? 1 : 0);
