// Many pipelines and many tables: what is promised of the pages holds there too.
import assert from "node:assert/strict";
import { join } from "node:path";
import { freePort, Server } from "../stage.mjs";

/** Of CI; MANY_TABLES=10000 is the number that is promised, and takes minutes to make and load. */
const TABLES = Number(process.env.MANY_TABLES ?? 1_000);
const PIPELINES = 500;
/** How much more than the budget of a page it may take here, where databases and servers share two processors with it. */
const ROOM = Number(process.env.ROOM ?? 3);

export async function u12_five_hundred_pipelines_and_a_thousand_tables_are_shown_within_the_budget({ browsing, accessibleOn, databases, directory, server, shot, until }) {
  const own = await browsing();
  const many = new Server(server.program, join(directory, "many"), await freePort(), server.file);
  await many.start();
  try {
    // A source of its own, whose tables are made in portions: each holds locks until it commits.
    const of = (base, name) => {
      const url = new URL(base);
      url.pathname = name;
      return url.href;
    };
    const [source, target] = [of(databases.admin, "many_source"), of(databases.admin, "many_target")];
    for (const name of ["many_source", "many_target"]) await databases.sql(databases.admin, `CREATE DATABASE ${name}`);
    await databases.sql(source, `DO $$ BEGIN FOR i IN 1..${TABLES} LOOP
      EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, n int)', lpad(i::text, 5, '0'));
      EXECUTE format('INSERT INTO t%s VALUES (1, 0)', lpad(i::text, 5, '0'));
      IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$`);
    const side = (url) => ({ type: "postgres", url });
    const define = (name, include, how) => many.post(`/pipelines${how}`, {
      version: 1, pipeline: { name, mode: "full_load_and_cdc" }, source: side(source), target: side(target), tables: { include }, verify: { after_load: "off" },
    });
    await define("wide", ["public.*"], "?start=true");
    for (let from = 1; from < PIPELINES; from += 20) await Promise.all(Array.from({ length: Math.min(20, PIPELINES - from) }, (_, at) => define(`p${String(from + at).padStart(3, "0")}`, [`p${from + at}.*`], "")));
    assert.equal((await many.get("/monitoring/overview")).total, PIPELINES);

    await own.request.post(`${many.url}/api/v1/session`, { headers: { authorization: `Bearer ${await many.token()}` } });
    const page = await own.newPage();
    const devtools = await own.newCDPSession(page);
    // Script in time of its own thread.
    await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
    const metric = async (name) => (await devtools.send("Performance.getMetrics")).metrics.find((one) => one.name === name).value;
    /** When something was painted, when the page could be used, and when all of it was there, in ms; the best of some. */
    const opened = async (path, ready, whole) => {
      const best = { paint: Infinity, usable: Infinity, whole: Infinity };
      const noted = (name, at) => (best[name] = Math.min(best[name], at));
      for (let count = 0; count < 3; count += 1) {
        await page.goto(`${many.url}${path}`);
        await ready();
        noted("usable", await page.evaluate(() => performance.now()));
        await whole();
        noted("whole", await page.evaluate(() => performance.now()));
        noted("paint", await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? Infinity));
      }
      return best;
    };

    const link = (name) => page.getByRole("link", { name, exact: true });
    const overview = await opened("/", () => link("p001").waitFor(), () => link("p499").waitFor());
    assert.equal(await page.locator("[data-row]").count(), PIPELINES);
    await accessibleOn(page, "five hundred pipelines");
    await page.getByRole("link", { name: "p499", exact: true }).scrollIntoViewIfNeeded();
    await shot("overview-many", page);

    await until("wide to stream", async () => (await many.get("/pipelines/wide")).state === "streaming", 600_000);
    const last = `public.t${String(TABLES).padStart(5, "0")}`;
    const first = page.locator("tbody tr").filter({ hasText: "public.t00001" });
    const rowcount = `table[aria-rowcount="${TABLES + 1}"]`;
    // The last part is there when there is room for all rows.
    const parts = Math.ceil(TABLES / 50);
    const tables = await opened("/p/wide", () => first.waitFor(), () => page.locator(`${rowcount} tbody:nth-of-type(${parts})`).waitFor({ state: "attached" }));
    await page.getByText(`all ${TABLES}`).waitFor();
    const rows = () => page.locator("tbody tr[aria-rowindex]").count();
    assert.ok((await rows()) <= 200, "rows that nobody sees are there");

    // All of them change, and the page takes it once a second.
    const stop = databases.repeat(source, "UPDATE t00001 SET n = n + 1; UPDATE t00002 SET n = n + 1", 0.2);
    await page.evaluate(() => {
      globalThis.long = [];
      new PerformanceObserver((list) => globalThis.long.push(...list.getEntries().map((entry) => Math.round(entry.duration)))).observe({ type: "longtask" });
    });
    const heard = () => page.evaluate(() => Number(document.documentElement.dataset.messages));
    const changes = first.locator("td").nth(4);
    const was = await changes.innerText();
    await until("changes", async () => (await changes.innerText()) !== was);
    const [script, messages] = [await metric("ScriptDuration"), await heard()];
    await until("some news", async () => (await heard()) >= messages + 20);
    const each = ((await metric("ScriptDuration")) - script) * 1_000 / ((await heard()) - messages);
    stop();

    // To the end, and it is there.
    for (let at = await page.evaluate(() => scrollY); ; ) {
      await page.mouse.wheel(0, 20_000);
      await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
      const now = await page.evaluate(() => scrollY);
      if (now === at && (await page.locator("tbody tr").filter({ hasText: last }).count())) break;
      at = now;
    }
    await page.locator("tbody tr").filter({ hasText: last }).waitFor();
    assert.ok((await rows()) <= 200, "rows that were passed are kept");
    await accessibleOn(page, "the end of many tables");
    await shot("pipeline-many-tables", page);
    const long = await page.evaluate(() => globalThis.long);
    const opening = ({ paint, usable, whole }) => `painted after ${Math.round(paint)} ms, usable after ${Math.round(usable)} ms, whole after ${Math.round(whole)} ms`;
    console.log(`${PIPELINES} pipelines: ${opening(overview)}; ${TABLES} tables: ${opening(tables)}, ${each.toFixed(2)} ms of script for each of the news; tasks of more than 50 ms: ${long.join(", ") || "none"}`);
    const within = (limit) => limit * ROOM;
    assert.ok(Math.max(overview.paint, tables.paint) <= within(400), "painted too late");
    assert.ok(Math.max(overview.usable, tables.usable) <= within(700), "usable too late");
    assert.ok(each <= within(2), `script takes ${each} ms for each of the news`);
  } finally {
    await own.close();
    await many.stop();
  }
}
