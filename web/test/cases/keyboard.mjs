// By the keyboard alone: a pipeline from nothing to its end, and the order in which every page is gone through.
import assert from "node:assert/strict";
import { header, PAGES, said, shown } from "./look.mjs";

/** In the page: how what has the focus is called. */
const focused = () => {
  const one = document.activeElement;
  const label = one?.getAttribute("aria-label") ?? one?.labels?.[0]?.textContent ?? one?.textContent ?? "";
  return { name: label.trim(), tag: one?.tagName ?? "", ring: one ? getComputedStyle(one).outlineStyle : "none", isIn: one !== document.body };
};

/** Goes on by Tab to what has this name. */
async function tabTo(page, name) {
  const passed = [];
  for (let count = 0; count < 90; count += 1) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(focused);
    if (at.isIn) assert.notEqual(at.ring, "none", `no ring on ${at.name.slice(0, 40)}`);
    if (typeof name === "string" ? at.name === name : name.test(at.name)) return;
    passed.push(at.name.slice(0, 30));
  }
  throw new Error(`${name} is not reached: ${passed.join(" | ")}`);
}

export async function u09_a_pipeline_is_made_paused_compared_loaded_anew_and_deleted_by_the_keyboard({ page, open, until, databases, server }) {
  await databases.sql(databases.source, "CREATE SCHEMA keyed; CREATE TABLE keyed.notes (id int PRIMARY KEY, v text); INSERT INTO keyed.notes SELECT i, 'v' FROM generate_series(1, 100) i; ANALYZE keyed.notes");
  const press = (key) => page.keyboard.press(key);
  const has = (name) => until(`the focus on ${name}`, async () => (await page.evaluate(focused)).name === name);
  const isAtHeading = () => until("the focus on the page's heading", async () => (await page.evaluate(focused)).tag === "H1");
  await open("/");
  await page.locator("[data-link=live]").waitFor();
  await press("g");
  await press("n");
  await page.getByRole("heading", { name: "New pipeline" }).waitFor();
  await isAtHeading();
  for (const [name, text] of [["Name", "keyed"], ["Source", databases.source], ["Target", databases.target], ["Tables, as patterns", "keyed.*"]]) {
    await tabTo(page, name);
    await press("ControlOrMeta+a");
    await page.keyboard.type(text);
  }
  await tabTo(page, "Check");
  await press("Enter");
  await page.getByRole("heading", { name: "Plan" }).waitFor();
  await tabTo(page, /^Start/);
  await press("Enter");
  await page.getByRole("heading", { name: "keyed", exact: true }).waitFor();
  const says = (what, pattern) => until(what, async () => pattern.test(await header(page).innerText()));
  await says("streaming", /streaming/);
  await isAtHeading();

  // What is pressed becomes another; who pressed it is still there.
  await tabTo(page, "Pause");
  await press("Enter");
  await says("paused", /paused[\s\S]*by admin/);
  await has("Resume");
  await press("Enter");
  await says("streaming again", /streaming/);
  await has("Pause");
  await tabTo(page, "Verify");
  await press("Enter");
  await until("both sides to be compared", async () => /✓ verification \d+: 100 rows identical at/.test(await said(page).innerText()));
  await has("Verify");
  await tabTo(page, "force resync of keyed.notes");
  await press("Enter");
  await page.getByRole("dialog").getByTestId("rows").waitFor();
  const before = await databases.sql(databases.target, "SELECT 'keyed.notes'::regclass::oid");
  await tabTo(page, /^Type/);
  await page.keyboard.type("keyed.notes");
  await press("Enter");
  await until("the resync to be over", async () => /✓ 1 tables? copied anew/.test(await said(page).innerText()));
  assert.notEqual(await databases.sql(databases.target, "SELECT 'keyed.notes'::regclass::oid"), before, "nothing was copied");
  await has("force resync of keyed.notes");

  // What goes away while it has the focus leaves the focus beside it, and not at the top of the page.
  await tabTo(page, "Stop");
  await press("Enter");
  await says("stopped", /stopped/);
  await has("Start again");
  await tabTo(page, "Delete …");
  await press("Enter");
  await tabTo(page, /^Type/);
  await page.keyboard.type("keyed");
  await press("Enter");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await until("keyed to be gone", async () => (await server.get("/pipelines/keyed")).status === 404);
}

export async function u09_keys_go_where_they_say({ page, open, until }) {
  await open("/settings");
  await page.locator("[data-link=live]").waitFor();
  await page.keyboard.press("g");
  await page.keyboard.press("o");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.getByRole("link", { name: "shop", exact: true }).first().waitFor();
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "shop", exact: true }).waitFor();
  await until("the focus on the page's heading", async () => (await page.evaluate(focused)).tag === "H1");
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await page.keyboard.press("Escape");
}

/** In the page: what Tab must come by, in the order of the text. Of radio buttons of one name it is one. */
const stops = () => {
  const all = [...document.querySelectorAll("a[href], button:not(:disabled), input:not(:disabled), select, textarea, summary, [tabindex='0']")];
  const can = all.filter((one) => one.checkVisibility() && !(one.type === "radio" && !one.checked));
  return can.map((one) => {
    one.dataset.stop ??= String(Math.random());
    return one.dataset.stop;
  });
};

export async function u09_every_page_is_gone_through_in_the_order_it_is_read({ page, open, record }) {
  const lines = [];
  for (const path of PAGES.map((path) => path.replace("ID", "shop"))) {
    await open(path);
    await shown(page);
    // What comes by itself meanwhile is a stop or not by when it came.
    const before = await page.evaluate(stops);
    const met = [];
    const names = [];
    for (let count = 0; count <= before.length + 20; count += 1) {
      await page.keyboard.press("Tab");
      const at = await page.evaluate(focused);
      if (!at.isIn) break;
      assert.notEqual(at.ring, "none", `no ring on ${at.name.slice(0, 40)} of ${path}`);
      const stop = await page.evaluate(() => document.activeElement.dataset.stop ?? "new");
      // Behind the last one comes the first.
      if (stop !== "new" && met.includes(stop)) break;
      met.push(stop);
      names.push(at.name.replace(/\s+/g, " ").slice(0, 50));
    }
    const after = await page.evaluate(stops);
    const lasting = before.filter((one) => after.includes(one));
    assert.ok(lasting.length > 8, `${path} has ${lasting.length} stops`);
    assert.deepEqual(met.filter((one) => lasting.includes(one)), lasting, `${path}: ${names.join(" | ")}`);
    lines.push(path, ...names.map((name) => `  ${name}`));
  }
  await record("focus-order.txt", `${lines.join("\n")}\n`);
}
