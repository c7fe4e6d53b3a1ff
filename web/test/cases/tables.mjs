// The tables of a pipeline, and what is done with them.
import assert from "node:assert/strict";
import { HOSTILE, row, said } from "./look.mjs";

export async function u01_numbers_move_without_loading_the_page_anew({ page, databases, open, until, accessible, shot }) {
  databases.repeat(databases.source, "INSERT INTO orders (customer, total) SELECT i, i FROM generate_series(1, 20) i", 0.3);
  await open("/p/shop");
  const changes = row(page, "public.orders").locator("td").nth(4);
  await changes.waitFor();
  await page.evaluate(() => (globalThis.stillHere = true));
  const number = async () => Number((await changes.innerText()).replace(/\D/g, ""));
  const first = await number();
  await until("changes to grow", async () => (await number()) > first);
  const second = await number();
  await until("changes to grow on", async () => (await number()) > second);
  assert.equal(await page.evaluate(() => globalThis.stillHere), true, "the page was loaded anew");
  assert.ok(Number(await page.evaluate(() => document.documentElement.dataset.messages)) > 2, "nothing came by the stream");
  await accessible("tables");
  await shot("pipeline-tables");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("pipeline-tables-dark");
  await page.emulateMedia({ colorScheme: "light" });
}

export async function u04_a_resync_shows_its_effect_and_readers_never_see_fewer_rows({ page, open, until, accessible, shot, databases }) {
  await open("/p/shop");
  await row(page, "public.customers").getByRole("button", { name: /force resync/ }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByTestId("rows").waitFor();
  const counted = Number(await databases.sql(databases.source, "SELECT count(*) FROM customers"));
  assert.equal(Number((await dialog.getByTestId("rows").innerText()).replace(/\D/g, "")), counted);
  await accessible("the dialog of a resync");
  await shot("resync-dialog");
  const go = dialog.getByRole("button", { name: "Resync" });
  assert.ok(await go.isDisabled(), "it can begin without a name");
  await dialog.getByLabel(/Type/).fill("public.customer");
  assert.ok(await go.isDisabled(), "it can begin with another name");
  // Escape closes and gives the focus back to where it was.
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  await until("the focus where it was", async () => (await page.evaluate(() => document.activeElement?.getAttribute("aria-label"))) === "force resync of public.customers");
  await page.keyboard.press("Enter");
  await dialog.getByTestId("rows").waitFor();
  await dialog.getByLabel(/Type/).fill("public.customers");
  let isOver = false;
  let least = Infinity;
  const reading = (async () => {
    while (!isOver) least = Math.min(least, Number(await databases.sql(databases.target, "SELECT count(*) FROM public.customers")));
  })();
  const before = (await databases.sql(databases.target, "SELECT 'public.customers'::regclass::oid"));
  await page.keyboard.press("Enter");
  await until("the resync to be over", async () => /✓ 1 tables? copied anew/.test(await said(page).innerText()));
  isOver = true;
  await reading;
  assert.equal(least, counted, "a reader saw fewer rows");
  assert.notEqual(await databases.sql(databases.target, "SELECT 'public.customers'::regclass::oid"), before, "nothing was copied");
}

export async function u03_a_table_in_quarantine_leaves_the_others_alone_and_comes_back({ page, open, until, accessible, shot, databases }) {
  await open("/p/shop");
  // The target takes no more than this; the source has more.
  await databases.sql(databases.target, "ALTER TABLE public.prices ADD CONSTRAINT small CHECK (price < 5000)");
  await databases.sql(databases.source, "INSERT INTO prices VALUES (5001, 9999)");
  await until("quarantine", async () => (await row(page, "public.prices").innerText()).includes("quarantined"));
  const changes = row(page, "public.orders").locator("td").nth(4);
  const first = await changes.innerText();
  await until("the others to go on", async () => (await changes.innerText()) !== first);
  assert.match(await page.locator("tbody tr").first().innerText(), /public.prices/, "what needs a person is not first");
  await accessible("quarantine");
  await shot("pipeline-quarantine");
  await open("/");
  await page.locator("article").filter({ hasText: "1 of" }).waitFor();
  await until("the title", async () => /^✗ 1 · /.test(await page.title()));
  await accessible("an overview with an error");
  await shot("overview-error");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("overview-error-dark");
  await page.emulateMedia({ colorScheme: "light" });
  // A number is a filter, and the filter is in the address.
  await page.getByRole("button", { name: /ok/ }).click();
  await page.getByText("No pipeline is like that").waitFor();
  assert.match(page.url(), /health=ok/);
  await databases.sql(databases.target, "ALTER TABLE public.prices DROP CONSTRAINT small");
  await open("/p/shop");
  await row(page, "public.prices").getByRole("button", { name: /retry/ }).click();
  await until("it streams again", async () => (await row(page, "public.prices").innerText()).includes("streaming"));
  await until("the row", async () => (await databases.sql(databases.target, "SELECT count(*) FROM public.prices WHERE id = 5001")) === "1");
}

export async function u11_hostile_names_are_text_and_their_tables_obey({ page, open, until, complaints }) {
  await open("/p/shop");
  for (const name of HOSTILE) {
    const line = row(page, name);
    await line.waitFor();
    assert.ok((await line.innerText()).includes(name), name);
    await line.getByRole("button", { name: /^pause/ }).click();
    await until(`${name} to be paused`, async () => (await line.innerText()).includes("paused"));
    await line.getByRole("button", { name: /^resume/ }).click();
    await until(`${name} to go on`, async () => (await line.innerText()).includes("streaming"));
  }
  assert.equal(await page.locator("main img").count(), 0);
  assert.deepEqual(complaints, []);
}
