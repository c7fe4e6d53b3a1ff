// Rows in quarantine: what is shown of them, what each action says it does, and that it does that.
import assert from "node:assert/strict";
import { said } from "./look.mjs";

export async function u03_rows_in_quarantine_are_shown_with_what_each_action_does({ page, open, until, accessible, shot, server, databases }) {
  await open("/p/shop/quarantine");
  await page.getByText("Nothing is in quarantine").waitFor();
  await accessible("an empty quarantine");
  await shot("pipeline-quarantine-empty");
  // A pipeline that puts single rows aside, on tables of its own.
  await databases.sql(databases.source, "CREATE SCHEMA rows; CREATE TABLE rows.moods (id int PRIMARY KEY, v text); INSERT INTO rows.moods SELECT i, 'calm' FROM generate_series(1, 10) i");
  const side = (url) => ({ type: "postgres", url });
  await server.post("/pipelines?start=true", {
    version: 1, pipeline: { name: "moods", mode: "full_load_and_cdc" }, source: side(databases.source), target: side(databases.target),
    tables: { include: ["rows.*"] }, stream: { on_row_error: "quarantine_row" }, verify: { after_load: "off" },
  });
  await until("moods to stream", async () => (await server.get("/pipelines/moods")).state === "streaming");
  await databases.sql(databases.target, "ALTER TABLE rows.moods ADD CONSTRAINT no_odd CHECK (v <> 'odd')");
  await databases.sql(databases.source, "INSERT INTO rows.moods VALUES (11, 'odd'), (12, 'odd'); UPDATE rows.moods SET id = 13 WHERE id = 11");
  await open("/p/moods/quarantine");
  const rows = page.getByRole("region", { name: "rows in quarantine" }).locator("tbody tr");
  await until("two rows", async () => (await rows.count()) === 2);
  assert.match(await page.getByTestId("kept").innerText(), /2 rows in quarantine with 3 changes; 0 tables set aside/);
  assert.match(await rows.first().innerText(), /13[\s\S]*insert[\s\S]*TM2045[\s\S]*23514/);
  await accessible("rows in quarantine");
  await shot("pipeline-quarantine-rows");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("pipeline-quarantine-rows-dark");
  await page.emulateMedia({ colorScheme: "light" });

  // With values: by the keyboard, and the focus comes back.
  await rows.first().getByRole("button", { name: /^show/ }).focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog");
  await dialog.getByText("refused, 23514").waitFor();
  assert.match(await dialog.innerText(), /odd/);
  await accessible("a row in quarantine");
  await shot("quarantine-row");
  await page.keyboard.press("Escape");
  await until("the focus where it was", async () => (await page.evaluate(() => document.activeElement?.textContent)) === "Show");

  // What is given up asks for the name; what it does is what it says.
  await rows.nth(1).getByRole("button", { name: /^drop/ }).click();
  await dialog.getByTestId("effect").filter({ hasText: "Discards 1 row" }).filter({ hasText: "differs from the source" }).waitFor();
  assert.ok(await dialog.getByRole("button", { name: "Drop" }).isDisabled(), "it is dropped without a name");
  await accessible("the dialog of a drop");
  await shot("quarantine-drop");
  await dialog.getByLabel(/Type/).fill("moods");
  await page.keyboard.press("Enter");
  await until("it to be dropped", async () => /✓ 1 row is discarded/.test(await said(page).innerText()));
  await until("one row", async () => (await rows.count()) === 1);

  // Retried before the cause is mended it stays; the page says so, and then it is in.
  const retry = async () => {
    await rows.first().getByRole("button", { name: /^retry/ }).click();
    await dialog.getByTestId("effect").filter({ hasText: "applied again" }).waitFor();
    await dialog.getByRole("button", { name: "Retry" }).click();
  };
  await retry();
  await until("the refusal", async () => /✗ .*1 stays in quarantine/.test(await said(page).innerText()));
  assert.equal(await rows.count(), 1);
  await open("/quarantine");
  await page.getByRole("link", { name: "moods" }).waitFor();
  await accessible("quarantine of all pipelines");
  await shot("quarantine");
  await page.getByRole("link", { name: "moods" }).click();
  await databases.sql(databases.target, "ALTER TABLE rows.moods DROP CONSTRAINT no_odd");
  await until("the row again", async () => (await rows.count()) === 1);
  await retry();
  await page.getByText("Nothing is in quarantine").waitFor();
  assert.equal(await databases.sql(databases.target, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM rows.moods WHERE id > 10"), "13");

  // A target that does not answer is said, and nothing is claimed.
  await databases.sql(databases.admin, `ALTER DATABASE ${new URL(databases.target).pathname.slice(1)} ALLOW_CONNECTIONS false`);
  try {
    await open("/p/moods/quarantine");
    await page.getByRole("alert").waitFor();
    assert.ok(!(await page.locator("main").innerText()).includes("Nothing is in quarantine"));
    await accessible("a quarantine that cannot be read");
  } finally {
    await databases.sql(databases.admin, `ALTER DATABASE ${new URL(databases.target).pathname.slice(1)} ALLOW_CONNECTIONS true`);
  }
  await page.getByRole("button", { name: "Ask again" }).click();
  await page.getByText("Nothing is in quarantine").waitFor();

  const headers = { authorization: `Bearer ${await server.token()}`, "if-match": "*" };
  await fetch(`${server.url}/api/v1/pipelines/moods`, { method: "DELETE", headers });
  await until("moods to be gone", async () => (await server.get("/pipelines")).total === 1);
}
