// All pipelines.
import assert from "node:assert/strict";

export async function an_empty_server_says_what_to_do({ page, accessible, shot }) {
  await page.getByText("No pipeline yet").waitFor();
  await page.locator("[data-link=live]").waitFor();
  await accessible("empty overview");
  await shot("overview-empty");
}

export async function u01_the_overview_is_live_and_its_title_says_how_it_is({ page, until, accessible, shot }) {
  await page.getByRole("link", { name: "Overview" }).click();
  const line = page.locator("tr, article").filter({ hasText: "shop" });
  await until("a latency that is known", async () => /\d\sm?s\b/.test(await line.first().innerText()));
  await until("the title", async () => /Tidemark$/.test(await page.title()) && /^[✓!?✗]/.test(await page.title()));
  await until("a line of the last minutes", async () => (await page.locator("svg.spark").count()) > 0);
  await accessible("overview");
  await shot("overview");
}

export async function pipelines_are_chosen_by_their_tags({ page, open, until, accessible, shot, server, databases }) {
  const made = async (name, tags) => {
    const side = (url) => ({ type: "postgres", url });
    await server.post("/pipelines", {
      version: 1, pipeline: { name, mode: "full_load_only", tags }, source: side(databases.source), target: side(databases.target), tables: { include: ["public.*"] },
    });
  };
  await made("ledger", ["finance", "tier 1"]);
  await made("invoices", ["finance"]);
  await open("/");
  const tags = page.getByRole("group", { name: "filter by tag" });
  // Lines of pipelines: the facts above name the worst one.
  const shown = (name) => page.locator("a[data-row]").filter({ hasText: new RegExp(`^${name}$`) }).count();
  await tags.getByRole("button", { name: /^finance\s*2$/ }).click();
  await until("those with the tag alone", async () => (await shown("ledger")) === 1 && (await shown("shop")) === 0);
  assert.equal(new URL(page.url()).search, "?tag=finance");
  await accessible("overview by tag");
  await shot("overview-tags");
  await page.setViewportSize({ width: 320, height: 640 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than the page");
  await page.setViewportSize({ width: 1280, height: 800 });
  await tags.getByRole("button", { name: /^finance/ }).click();
  await until("all of them", async () => (await shown("shop")) === 1);
  for (const name of ["ledger", "invoices"]) await server.remove(`/pipelines/${name}`);
  await until("only the one before", async () => (await server.get("/pipelines")).total === 1);
  await open("/");
}
