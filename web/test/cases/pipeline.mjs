// The other tabs of a pipeline.
import assert from "node:assert/strict";
import { header, inTheDark, row, said } from "./look.mjs";

export async function both_sides_are_compared_from_the_page({ page, open, until, accessible, shot, databases }) {
  await open("/p/shop/verification");
  await page.getByRole("button", { name: "Compare every row" }).click();
  await until("an answer", async () => /✓ verification \d+: \d+ rows identical at/.test(await said(page).innerText()));
  const at = /at ([0-9A-F]+\/[0-9A-F]+)/.exec(await said(page).innerText())[1];
  await page.locator("#report").filter({ hasText: "identical" }).filter({ hasText: at }).waitFor();
  const rows = Number(await databases.sql(databases.source, "SELECT count(*) FROM customers"));
  const shown = await row(page, "public.customers").locator("td").nth(2).innerText();
  assert.equal(Number(shown.replace(/\D/g, "")), rows);
  await until("the header", async () => (await header(page).innerText()).includes("identical"));
  await accessible("verification");
  await shot("pipeline-verification");
}

export async function what_differs_does_not_look_like_success_and_is_repaired_from_the_page({ page, open, until, accessible, shot, databases, asViewer }) {
  await databases.sql(databases.target, "UPDATE customers SET city = 'elsewhere' WHERE id IN (4990, 4991); DELETE FROM customers WHERE id = 4992");
  await open("/p/shop/verification");
  await page.getByRole("button", { name: "Compare every row" }).click();
  await page.locator("#report").filter({ hasText: "different" }).waitFor();
  await until("what was found to be said", async () => /^✗ verification \d+: 3 rows differ at/.test(await said(page).innerText()));
  assert.equal(await said(page).locator("span").first().getAttribute("class"), "error");
  const repair = { name: "Repair what differs …" };
  await asViewer("/p/shop/verification", async (theirs) => {
    await theirs.locator("#report").filter({ hasText: "different" }).waitFor();
    assert.equal(await theirs.getByRole("button", repair).count(), 0);
  });
  await page.getByRole("button", repair).click();
  const dialog = page.getByRole("dialog");
  await dialog.filter({ hasText: /public\.customers → public\.customers\s*3 rows/ }).waitFor();
  await accessible("the dialog of a repair");
  await shot("pipeline-repair");
  await dialog.getByRole("button", { name: "Repair", exact: true }).click();
  const rows = "SELECT md5(string_agg(c::text, '|' ORDER BY id)) FROM customers c";
  await until("both sides to be equal", async () => (await databases.sql(databases.source, rows)) === (await databases.sql(databases.target, rows)));
  await until("an end", async () => /^✓/.test(await said(page).innerText()));
  const repaired = await said(page).innerText();
  await page.getByRole("button", { name: "Compare every row" }).click();
  await until("another answer", async () => {
    const answer = await said(page).innerText();
    return answer !== repaired && /^✓ verification \d+: \d+ rows identical at/.test(answer);
  });
}

export async function a_verification_under_way_is_shown_and_given_up({ page, open, until, accessible, shot, server, databases, asViewer }) {
  // A transaction that has just begun on the source is waited for: for as long as we look.
  const free = await databases.hold(databases.source, "DO $$ BEGIN PERFORM pg_current_xact_id(); END $$");
  try {
    await open("/p/shop");
    await page.getByRole("button", { name: "Verify", exact: true }).click();
    const running = page.getByRole("list", { name: "actions under way" });
    await running.filter({ hasText: /running\s*verify since .* by admin/ }).waitFor();
    await accessible("an action under way");
    await shot("pipeline-operation");
    await asViewer("/p/shop", async (theirs) => {
      await theirs.getByRole("list", { name: "actions under way" }).waitFor();
      assert.equal(await theirs.getByRole("button", { name: "cancel verify" }).count(), 0);
    });
    await page.getByRole("button", { name: "cancel verify" }).click();
    await until("it to be given up", async () => /verify shop: cancelled by admin/.test(await said(page).innerText()));
    await running.waitFor({ state: "detached" });
    const { operations } = await server.get("/pipelines/shop/operations");
    assert.equal(operations[0].state, "cancelled");
  } finally {
    await free();
  }
}

export async function a_copy_that_could_not_be_compared_is_told_until_it_was({ page, open, until, accessible, server, databases }) {
  const { admin, source, target } = databases;
  await databases.sql(admin, "CREATE ROLE prover LOGIN REPLICATION PASSWORD 'prover'");
  await databases.sql(source, "CREATE SCHEMA proofs AUTHORIZATION prover; CREATE TABLE proofs.sums (id int PRIMARY KEY); INSERT INTO proofs.sums SELECT generate_series(1, 100); ALTER TABLE proofs.sums OWNER TO prover");
  const { pathname } = new URL(source);
  await databases.sql(admin, `GRANT CREATE ON DATABASE "${pathname.slice(1)}" TO prover`);
  const reader = new URL(source);
  reader.username = "prover";
  reader.password = "prover";
  // A comparison waits for a transaction that has just begun: long enough to take away what it needs.
  const free = databases.repeat(source, "SELECT pg_current_xact_id(), pg_sleep(2)", 0.1);
  const freeAsWell = databases.repeat(source, "SELECT pg_current_xact_id(), pg_sleep(1.5)", 0.1);
  await server.post("/pipelines?start=true", {
    version: 1, pipeline: { name: "proven", mode: "full_load_and_cdc" }, source: { type: "postgres", url: reader.href }, target: { type: "postgres", url: target },
    tables: { include: ["proofs.*"] },
  });
  await until("the load", async () => (await server.get("/pipelines/proven")).state === "streaming");
  await databases.sql(admin, "ALTER ROLE prover NOREPLICATION");
  free();
  freeAsWell();
  await open("/p/proven");
  const told = page.getByText("The copy is not compared after its load, though it is to be; that is tried again.");
  await told.filter({ hasText: "TM1014" }).waitFor();
  await until("the header", async () => /warning[\s\S]*verified\s*not after its load/.test(await header(page).innerText()));
  await accessible("a copy that could not be compared");
  await databases.sql(admin, "ALTER ROLE prover REPLICATION");
  await until("it to be compared", async () => /verified\s*✓?\s*identical/.test(await header(page).innerText()));
  await told.waitFor({ state: "detached" });
  await server.remove("/pipelines/proven");
  await until("it to be gone", async () => (await server.get("/pipelines/proven")).status === 404);
  await databases.sql(source, "DROP OWNED BY prover CASCADE");
  await databases.sql(admin, "DROP ROLE prover");
}

export async function the_past_is_drawn_and_can_be_read_as_a_table({ page, open, until, accessible, shot }) {
  await open("/p/shop/analytics");
  await page.locator(".uplot canvas").first().waitFor();
  await until("a position", async () => /[0-9A-F]+\/[0-9A-F]+/.test(await page.locator(".readouts").innerText()));
  // Lines are drawn: their colour is on the canvas, and in the dark another one.
  const drawn = (colour) => page.evaluate((colour) => {
    const canvas = document.querySelector(".uplot canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    let count = 0;
    for (let at = 0; at < data.length; at += 4) if (Math.abs(data[at] - r) + Math.abs(data[at + 1] - g) + Math.abs(data[at + 2] - b) < 30 && data[at + 3] > 200) count += 1;
    return count;
  }, colour);
  await until("the source's line", async () => (await drawn("#0072b2")) > 20);
  await accessible("analytics");
  await shot("pipeline-analytics");
  await page.emulateMedia({ colorScheme: "dark" });
  await until("the source's line in the dark", async () => (await drawn("#56b4e9")) > 20);
  // Labels of axes are readable there as well.
  assert.ok((await drawn("#9fb0c0")) > 20, "axis labels have no colour of the dark theme");
  await shot("pipeline-analytics-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.getByRole("button", { name: "as table" }).click();
  await page.getByRole("region", { name: "measurements" }).locator("tbody tr").nth(3).waitFor();
  await accessible("measurements");
}

export async function u06_what_is_not_known_is_unknown_and_never_0({ page, open, until, proxy, accessible, shot }) {
  await open("/p/shop/analytics");
  await page.locator(".uplot canvas").first().waitFor();
  const holes = async () => Number(/(\d+) of \d+ moments were not measured/.exec(await page.getByRole("img", { name: /^Gap/ }).getAttribute("aria-label"))?.[1] ?? 0);
  const before = await holes();
  proxy.cut();
  const outs = page.locator(".readouts");
  // A heartbeat that was on its way when the wire was cut is known to be missing, and for how long: then the latency grows.
  const latency = /latency\s*(unknown|[3-9](\.\d+)?\ss|\d\d+\ss|\d+\sm)/;
  await until("unknown", async () => /gap\s*unknown/.test(await outs.innerText()) && latency.test(await outs.innerText()));
  assert.ok(!/(gap|latency)\s*0/.test(await outs.innerText()));
  await until("no number beside the chart either", async () => (await page.locator("figcaption", { hasText: "Gap" }).innerText()).includes("gap unknown"));
  assert.match(await page.locator("main").innerText(), /last known .* at [0-9A-F]+\/[0-9A-F]+/);
  await until("a hole in the past", async () => (await holes()) > before + 2);
  await shot("pipeline-analytics-hole");
  await open("/");
  const line = page.locator("tr, article").filter({ hasText: "shop" }).first();
  await until("the overview says so", async () => latency.test(await line.innerText()) && /gap\s*unknown/.test(await line.innerText()));
  assert.ok(!/\b0\ss\b/.test(await line.innerText()));
  await accessible("an overview with an unknown");
  await shot("overview-unknown");
  proxy.mend();
}

export async function log_lines_come_as_they_are_written({ page, open, until, accessible, shot, server }) {
  await open("/p/shop/logs");
  const lines = page.getByRole("list", { name: "log lines" }).locator("li");
  await until("lines", async () => (await lines.count()) > 3);
  await page.getByRole("button", { name: "Pause" }).click();
  await until("the line of the pause", async () => /state paused/.test(await lines.allInnerTexts().then((all) => all.slice(0, 3).join())));
  await page.getByRole("button", { name: "Resume" }).click();
  await lines.filter({ hasText: /op_id=/ }).first().waitFor();
  await accessible("log lines");
  await shot("pipeline-logs");
  await page.getByRole("button", { name: "errors", exact: true }).click();
  await until("none of those", async () => (await lines.filter({ hasText: "state paused" }).count()) === 0);
  // How loud the server is, is set while it runs.
  await open("/settings");
  await page.getByLabel("Log of the server").selectOption("debug");
  await until("the level", async () => (await server.get("/admin/log-level")).level === "debug");
  await page.getByLabel("Log of the server").selectOption("info");
  await until("the level again", async () => (await server.get("/admin/log-level")).level === "info");
}

export async function a_report_is_one_document_that_needs_nothing_else({ page, context, open, until, accessible, shot }) {
  await open("/p/shop");
  const opened = context.waitForEvent("page");
  await page.getByRole("link", { name: "report of the last day" }).click();
  const report = await opened;
  await report.getByRole("heading", { name: "shop" }).waitFor();
  const text = await report.content();
  await report.close();
  assert.ok(!/<script|https?:/.test(text.replace(/postgres:/g, "")), "it asks somebody");
  assert.ok(!text.includes("copier:copier"), "a secret is in it");
  // By its own address: charts are drawn, in the colours of its own style, in both themes.
  await open("/api/v1/pipelines/shop/report.html");
  await page.getByRole("img", { name: /^Gap: at most .* not measured/ }).waitFor();
  await until("a line", async () => (await page.locator("svg path.line").count()) > 0);
  const stroke = () => page.locator("svg path.line").first().evaluate((line) => getComputedStyle(line).stroke);
  assert.equal(await stroke(), "rgb(0, 114, 178)", "its style does not count");
  assert.match(await page.locator("main").innerText(), /identical at|different at/);
  await accessible("a report");
  await shot("report");
  await inTheDark(page, shot, "report-dark");
}

export async function events_and_the_definition_are_shown_without_secrets({ page, open, accessible, shot }) {
  await open("/p/shop/events");
  await page.locator(".events li").nth(3).waitFor();
  await accessible("events");
  await shot("pipeline-events");
  await open("/p/shop/configuration");
  const text = await page.locator("pre").innerText();
  assert.match(text, /name = "shop"/);
  assert.ok(!text.includes("copier:copier"), text);
  await accessible("configuration");
}
