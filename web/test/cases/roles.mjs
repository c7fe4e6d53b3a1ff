// Who may look, who may act, who may define: a page offers each what the API lets them do, and nobody sees what is masked.
import assert from "node:assert/strict";
import { PAGES, shown } from "./look.mjs";

const RANK = ["viewer", "operator", "admin"];

/** What changes something: where, its name, and who is offered it. */
const OFFERED = [
  ["/", "link", "+ New pipeline", "admin"],
  ["/p/guarded", "button", "Pause", "operator"],
  ["/p/guarded", "button", "Verify", "operator"],
  ["/p/guarded", "button", "Force resync …", "operator"],
  ["/p/guarded", "button", "Cut over …", "operator"],
  ["/p/guarded", "button", "Stop", "operator"],
  ["/p/guarded", "button", "Delete …", "admin"],
  ["/p/guarded", "button", "pause guarded.people", "operator"],
  ["/p/guarded", "button", "verify guarded.people", "operator"],
  ["/p/guarded", "button", "force resync of guarded.people", "operator"],
  ["/p/guarded", "link", "rows of guarded.people", "operator"],
  ["/p/guarded/data", "button", "Look again", "operator"],
  ["/p/guarded/data", "button", "Trace this row", "operator"],
  ["/settings", "combobox", "Log of the server", "admin"],
  ["/p/guarded/verification", "button", "Compare every row", "operator"],
  ["/p/guarded/verification", "button", "Compare counts", "operator"],
  ["/p/guarded/quarantine", "button", "Retry all …", "operator"],
  ["/p/guarded/quarantine", "button", "Drop all rows …", "operator"],
  ["/p/guarded/quarantine", "button", "show guarded.people key 21", "operator"],
  ["/p/guarded/quarantine", "button", "retry guarded.people key 21", "operator"],
  ["/p/guarded/quarantine", "button", "drop guarded.people key 21", "operator"],
  ["/p/guarded/configuration", "button", "Change …", "admin"],
  ["/alerts", "button", "test ops", "operator"],
  ["/new", "button", "Check", "admin"],
  ["/settings", "link", "Tokens", "admin"],
  ["/settings", "link", "Audit", "admin"],
  ["/settings/tokens", "button", "Give out a token", "admin"],
];

/** What the API keeps for some; nothing that changes something is for viewers. */
const KEPT = {
  "POST /pipelines": "admin", "PUT /pipelines/{id}": "admin", "PATCH /pipelines/{id}": "admin", "DELETE /pipelines/{id}": "admin",
  "POST /checks": "admin", "POST /plans": "admin", "POST /pipelines/{id}/definition/changes": "admin",
  "GET /pipelines/{id}/check": "operator", "GET /pipelines/{id}/plan": "operator",
  "GET /tokens": "admin", "POST /tokens": "admin", "DELETE /tokens/{id}": "admin", "GET /audit": "admin",
  "GET /admin/log-level": "admin", "PUT /admin/log-level": "admin",
  "GET /pipelines/{id}/preview": "operator", "GET /pipelines/{id}/trace": "operator",
  "DELETE /pipelines/{id}/slots/{slot}": "admin", "GET /pipelines/{id}/slots/{slot}/adoption": "operator",
  "GET /pipelines/{id}/slots": "operator", "GET /pipelines/{id}/quarantine/{number}": "operator",
};

const MASKED = "@masked.example";
const PLAIN = "odd-note";

export async function u14_pages_and_api_give_each_role_the_same_and_nobody_what_is_masked({ as, answers, until, server, databases, shot }) {
  await databases.sql(databases.source, `
    CREATE SCHEMA guarded;
    CREATE TABLE guarded.people (id int PRIMARY KEY, email text, note text);
    INSERT INTO guarded.people SELECT i, 'p' || i || '${MASKED}', 'calm' FROM generate_series(1, 20) i`);
  const side = (url) => ({ type: "postgres", url });
  await server.post("/pipelines?start=true", {
    version: 1, pipeline: { name: "guarded", mode: "full_load_and_cdc" }, source: side(databases.source), target: side(databases.target),
    tables: { include: ["guarded.*"] }, mask: [{ columns: ["guarded.people.email"], with: "redact" }],
    stream: { on_row_error: "quarantine_row" }, verify: { after_load: "off" },
  });
  await until("guarded to stream", async () => (await server.get("/pipelines/guarded")).state === "streaming");
  const news = await server.news();
  // A row that is refused, one that is masked again, one that differs.
  await databases.sql(databases.target, `ALTER TABLE guarded.people ADD CONSTRAINT no_odd CHECK (note <> '${PLAIN}')`);
  await databases.sql(databases.source, `
    INSERT INTO guarded.people VALUES (21, 'p21${MASKED}', '${PLAIN}');
    UPDATE guarded.people SET email = 'new' || email, note = 'calmer' WHERE id = 1`);
  const kept = await until("the row in quarantine", async () => (await server.get("/pipelines/guarded/quarantine")).rows.at(0));
  await databases.sql(databases.target, "UPDATE guarded.people SET note = 'not so' WHERE id = 2");
  await server.post("/pipelines/guarded/actions/verify", { depth: "deep" });
  const verified = await until("the difference", async () => (await server.get("/pipelines/guarded/verifications")).verifications.at(0));
  assert.equal(verified.result, "different");

  const fill = (path) => path.replace("/api/v1", "").replace("{table}", "guarded.people").replace("{code}", "TM2045").replace("{action}", "nothing")
    .replace("{slot}", "nothing")
    .replace("{number}", path.includes("verifications") ? verified.number ?? verified.id : kept.number)
    .replace(/\{(id|name)\}/, path.includes("/pipelines/") ? "guarded" : "nothing");
  const { paths } = await server.get("/openapi.json");
  const routes = Object.entries(paths).flatMap(([path, methods]) => Object.keys(methods).map((method) => [method.toUpperCase(), path.replace("/api/v1", "")]));
  for (const [route] of Object.entries(KEPT)) assert.ok(routes.some(([method, path]) => route === `${method} ${path}`), `the API has no ${route} any more`);

  for (const role of RANK) {
    await as(role, "/", async (theirs, asked, headers) => {
      const may = (least) => RANK.indexOf(role) >= RANK.indexOf(least);
      const sent = [];
      theirs.on("request", (request) => request.method() !== "GET" && sent.push(`${request.method()} ${request.url()}`));
      const pages = PAGES.map((page) => page.replace("ID", "guarded"));
      for (const page of pages.filter((page) => role === "viewer" || OFFERED.some(([where]) => where === page))) {
        await theirs.goto(`${server.url}${page}`);
        await theirs.locator("header").getByText(`one ${role}`).waitFor();
        await shown(theirs);
        for (const [, kind, name, least] of OFFERED.filter(([where]) => where === page)) {
          const found = theirs.getByRole(kind, { name, exact: true });
          if (may(least)) await found.first().waitFor();
          else assert.equal(await found.count(), 0, `${page} offers ${role}s: ${name}`);
        }
        if (role !== "viewer") continue;
        // Whatever else can be pressed there changes nothing.
        for (const button of await theirs.getByRole("button").all()) {
          const name = await button.textContent().catch(() => "Sign out");
          if (name !== "Sign out") await button.click({ timeout: 300 }).catch(() => undefined);
        }
        assert.deepEqual(sent, [], `${page}, pressed by a viewer`);
      }
      if (role === "operator") {
        await theirs.goto(`${server.url}/p/guarded/quarantine`);
        await theirs.getByRole("button", { name: "show guarded.people key 21" }).click();
        await theirs.getByRole("dialog").getByText(PLAIN).waitFor();
      }
      if (role === "viewer") {
        await theirs.goto(`${server.url}/new`);
        await theirs.getByText("An administrator defines pipelines").waitFor();
        await shot("new-viewer", theirs);
      }
      // The same is asked of the API without the page; of actions, one that there is not.
      for (const [method, path] of routes) {
        if (/\/(session|stream)$/.test(path)) continue;
        const body = `${method} ${path}` === "POST /tokens" ? { name: "another", role: "admin" } : {};
        const { status } = await asked(method, fill(path), method === "GET" ? undefined : JSON.stringify(body));
        const least = KEPT[`${method} ${path}`];
        const said = `${method} ${path} answers ${role}s ${status}`;
        if (least) assert.equal(status !== 403, may(least), said);
        else if (method !== "GET" && role === "viewer") assert.equal(status, 403, said);
      }
      const metrics = await fetch(`${server.url}/metrics`, { headers });
      answers.push({ role, what: "/metrics", text: await metrics.text() });
    });
  }
  assert.equal((await server.get("/pipelines/guarded")).desired_state, "running", "an action was carried out");

  // What is not masked is shown to those who act; so it would have been seen here.
  const saw = (role, text) => answers.filter((one) => one.role === role && one.text.includes(text)).map((one) => one.what);
  assert.ok(saw("operator", PLAIN).length > 0, "no value was shown to operators");
  assert.deepEqual(saw("viewer", PLAIN), [], "values of rows were shown to viewers");
  for (const role of RANK) assert.deepEqual(saw(role, MASKED), [], `what is masked was shown to ${role}s`);
  assert.ok(/guarded/.test(news.text), "nothing of it came by the stream");
  for (const text of [MASKED, PLAIN]) assert.ok(!news.text.includes(text), `${text} came by the stream`);
  for (const text of [MASKED, PLAIN]) assert.ok(!server.log.includes(text), `${text} is in the log`);
  assert.equal(await databases.sql(databases.target, `SELECT count(*) FROM guarded.people WHERE email LIKE '%${MASKED}'`), "0");
  news.end();
  await server.remove("/pipelines/guarded");
  await until("guarded to be gone", async () => (await server.get("/pipelines/guarded")).status === 404);
}
