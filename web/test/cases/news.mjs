// The server goes, comes, or sends no news.
import assert from "node:assert/strict";
import { row } from "./look.mjs";

export async function u05_without_the_server_everything_stays_with_its_age({ page, open, server, until, accessible, shot }) {
  await open("/p/shop");
  await row(page, "public.orders").waitFor();
  await page.locator("[data-link=live]").waitFor();
  const rows = await page.locator("tbody tr").count();
  const began = Date.now();
  await server.kill();
  await page.locator("[data-link=gone]").waitFor({ timeout: 5_000 });
  assert.ok(Date.now() - began < 5_000);
  assert.equal(await page.locator("tbody tr").count(), rows, "rows were cleared");
  await until("an age", async () => /\d\ss ago/.test(await page.locator("[data-age]").innerText()));
  assert.match(await page.title(), /no answer/);
  await accessible("without the server");
  await shot("server-gone");
  await server.start();
  await page.locator("[data-link=live]").waitFor();
  await until("news", async () => !(await page.locator("[data-age]").count()));
  const changes = row(page, "public.orders").locator("td").nth(4);
  const first = await changes.innerText();
  await until("numbers that move", async () => (await changes.innerText()) !== first);
}

export async function without_news_the_server_is_asked_and_the_page_says_so({ page, open, until, databases }) {
  await page.route("**/events/stream", (route) => route.abort());
  await open("/p/shop");
  await page.locator("[data-link=polling]").waitFor();
  await page.getByText("asked every 5 seconds").waitFor();
  const changes = row(page, "public.orders").locator("td").nth(4);
  const first = await changes.innerText();
  await until("numbers that move", async () => (await changes.innerText()) !== first);
  await page.unroute("**/events/stream");
  await page.locator("[data-link=live]").waitFor();
}
