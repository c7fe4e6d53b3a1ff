// What brings a copy into order again.
import assert from "node:assert/strict";
import { row, said } from "./look.mjs";

export async function a_gap_is_told_and_bridged_from_the_page({ page, open, until, accessible, shot, server, databases, asViewer }) {
  const beside = async (url, name) => {
    await databases.sql(databases.admin, `CREATE DATABASE ${name}`);
    return Object.assign(new URL(url), { pathname: `/${name}` }).href;
  };
  const [source, target] = [await beside(databases.source, "gap_source"), await beside(databases.target, "gap_target")];
  await databases.sql(source, "CREATE TABLE bills (id int PRIMARY KEY, what text); INSERT INTO bills SELECT i, 'b' || i FROM generate_series(1, 500) i");
  const side = (url) => ({ type: "postgres", url });
  await server.post("/pipelines?start=true", {
    version: 1, pipeline: { name: "gap", mode: "full_load_and_cdc" }, source: side(source), target: side(target), tables: { include: ["public.*"] },
  });
  const state = async () => (await server.get("/pipelines/gap")).state;
  await until("gap to stream", async () => (await state()) === "streaming");
  await open("/p/gap");
  const offer = page.getByRole("button", { name: "Reconcile …" });
  await page.getByRole("button", { name: "Verify", exact: true }).waitFor();
  assert.equal(await offer.count(), 0, "offered where nothing is missing");

  // Somebody drops the slot, and what is written meanwhile is in no log that is kept.
  await server.post("/pipelines/gap/actions/stop", {});
  await until("gap to be stopped", async () => (await state()) === "stopped");
  await until("the slot to be gone", async () => {
    await databases.sql(source, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'tidemark_gap' AND NOT active");
    return (await databases.sql(source, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'tidemark_gap'")) === "0";
  });
  await databases.sql(source, "UPDATE bills SET what = 'else' WHERE id <= 3; DELETE FROM bills WHERE id = 4; INSERT INTO bills VALUES (501, 'new')");
  await server.post("/pipelines/gap/actions/start", {});
  await until("gap to have failed", async () => (await state()) === "failed");
  await page.locator(".problem").filter({ hasText: "TM4010" }).waitFor();
  // What its tables did when it ran does not look as if it went on.
  await page.getByText("The pipeline is failed").waitFor();
  assert.equal(await row(page, "public.bills").locator(".state.ok").count(), 0, "a table streams and its pipeline does not");
  await accessible("a pipeline with a gap");
  await shot("pipeline-gap");
  await asViewer("/p/gap", async (theirs) => {
    await theirs.locator(".problem").filter({ hasText: "TM4010" }).waitFor();
    assert.equal(await theirs.getByRole("button", { name: "Reconcile …" }).count(), 0);
  });
  await offer.click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("Rows that the source does not have are deleted in the target").waitFor();
  assert.match(await dialog.innerText(), /public\.bills/);
  await accessible("the dialog of a reconcile");
  await shot("pipeline-reconcile");
  const go = dialog.getByRole("button", { name: "Reconcile", exact: true });
  assert.ok(await go.isDisabled(), "it can begin without a name");
  await dialog.getByLabel(/Type/).fill("gap");
  await go.click();
  await until("it to be said", async () => /^✓ reconciled: \d+ rows copied/.test(await said(page).innerText()));
  await until("gap to stream again", async () => (await state()) === "streaming");
  const rows = "SELECT md5(string_agg(b::text, '|' ORDER BY id)) FROM bills b";
  assert.equal(await databases.sql(target, rows), await databases.sql(source, rows));
  await offer.waitFor({ state: "detached" });
  await server.remove("/pipelines/gap");
  await until("gap to be gone", async () => (await server.get("/pipelines/gap")).status === 404);
}
