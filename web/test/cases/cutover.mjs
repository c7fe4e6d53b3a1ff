// A cutover from the page: what it would do first, who agrees to what, and for how long writes stood still.
import assert from "node:assert/strict";

export async function a_cutover_is_rehearsed_asked_for_and_told_with_its_downtime({ page, open, until, accessible, shot, server, databases }) {
  // Databases of its own: what is cut over is not written to any more.
  const beside = async (url, name) => {
    await databases.sql(databases.admin, `CREATE DATABASE ${name}`);
    return Object.assign(new URL(url), { pathname: `/${name}` }).href;
  };
  const [source, target] = [await beside(databases.source, "cut_source"), await beside(databases.target, "cut_target")];
  await databases.sql(source, "CREATE TABLE bills (id bigserial PRIMARY KEY, what text); INSERT INTO bills (what) SELECT 'b' || i FROM generate_series(1, 500) i; CREATE VIEW newest AS SELECT max(id) FROM bills");
  const side = (url) => ({ type: "postgres", url });
  await server.post("/pipelines?start=true", {
    version: 1, pipeline: { name: "cut", mode: "full_load_and_cdc" }, source: side(source), target: side(target), tables: { include: ["public.*"] },
  });
  await until("cut to stream", async () => (await server.get("/pipelines/cut")).state === "streaming");
  await open("/p/cut");
  const dialog = page.getByRole("dialog");
  const begin = async () => {
    await page.getByRole("button", { name: "Cut over …" }).click();
    await dialog.getByRole("list", { name: "steps" }).filter({ hasText: "sequences" }).waitFor();
  };
  await begin();
  await dialog.getByText("stay behind on the source").waitFor();
  assert.equal(await databases.sql(source, "SHOW default_transaction_read_only"), "off");
  await accessible("the dialog of a cutover");
  await shot("cutover-dialog");
  const go = dialog.getByRole("button", { name: "Cut over", exact: true });
  assert.ok(await go.isDisabled(), "it can begin without a name");

  // By hand: it waits until somebody says that the writers are stopped, and is given up instead.
  await dialog.getByRole("radio", { name: /^by hand/ }).check();
  await dialog.getByRole("list", { name: "steps" }).filter({ hasText: "you would be asked to stop them" }).waitFor();
  await dialog.getByLabel(/Type/).fill("cut");
  await go.click();
  await dialog.getByRole("button", { name: "They are stopped" }).waitFor();
  assert.match(await dialog.innerText(), /Stop everything that writes to .*cut_source now/);
  await accessible("a cutover that asks");
  await shot("cutover-asks");
  await dialog.getByRole("button", { name: "Give it up" }).click();
  await dialog.getByText("✗ given up.").waitFor();
  assert.match(await dialog.innerText(), /the source takes writes as before/);
  await accessible("a cutover that was given up");
  await dialog.getByRole("button", { name: "Close" }).click();
  await until("cut to stream on", async () => (await server.get("/pipelines/cut")).state === "streaming");

  // Behind a fence it goes to its end, and leaves a way back.
  await begin();
  await dialog.getByRole("checkbox", { name: /copies back/ }).check();
  await dialog.getByRole("list", { name: "steps" }).filter({ hasText: "cut_back could run" }).waitFor();
  await dialog.getByLabel(/Type/).fill("cut");
  await go.click();
  const downtime = dialog.getByTestId("downtime");
  await downtime.waitFor({ timeout: 60_000 });
  const { operations } = await server.get("/pipelines/cut/operations");
  const { data } = await server.get(`/operations/${operations[0].id}`);
  assert.equal(data.result, "cut_over");
  assert.ok(data.write_downtime_seconds >= 3, "writes stood still while silence was waited for");
  assert.ok(/\d/.test(await downtime.innerText()));
  await accessible("a cutover that is done");
  await shot("cutover-done");
  assert.equal(await databases.sql(source, "SHOW default_transaction_read_only"), "on");
  assert.equal(await databases.sql(target, "SELECT count(*) FROM bills"), "500");
  await dialog.getByRole("link", { name: "cut_back" }).waitFor();
  assert.equal((await server.get("/pipelines/cut_back")).state, "stopped");
  await server.remove("/pipelines/cut_back");
  await until("cut_back to be gone", async () => (await server.get("/pipelines/cut_back")).status === 404);
  await dialog.getByRole("button", { name: "Close" }).click();
  await until("cut to be stopped", async () => (await server.get("/pipelines/cut")).state === "stopped");
  await server.post("/pipelines/cut/actions/abort", {});
  await until("the source to take writes", async () => (await databases.sql(source, "SHOW default_transaction_read_only")) === "off");
  await server.remove("/pipelines/cut");
  await until("cut to be gone", async () => (await server.get("/pipelines/cut")).status === 404);
}
