// Rows of both sides: what differs is seen, what is masked is not, and who may not look sees nothing.
import assert from "node:assert/strict";
import { inTheDark, row } from "./look.mjs";

export async function rows_of_both_sides_are_seen_side_by_side({ page, open, until, accessible, shot, server, databases, asViewer }) {
  const { source, target } = databases;
  await databases.sql(source, "CREATE SCHEMA \"a.b\"; CREATE TABLE \"a.b\".\"c.d/'%2F🦀\" (id int PRIMARY KEY, v text); INSERT INTO \"a.b\".\"c.d/'%2F🦀\" VALUES (1, 'the odd one'); CREATE SCHEMA folk; CREATE TABLE folk.people (id int PRIMARY KEY, name text, mail text, born date); INSERT INTO folk.people SELECT i, 'person ' || i, 'p' || i || '@secret.example', date '1970-01-01' + i FROM generate_series(1, 30) i");
  const side = (url) => ({ type: "postgres", url });
  await server.post("/pipelines?start=true", {
    version: 1, pipeline: { name: "folk", mode: "full_load_and_cdc" }, source: side(source), target: side(target),
    tables: { include: ["folk.*", '"a.b".*'] }, verify: { after_load: "off" }, mask: [{ columns: ["folk.people.mail"], with: "partial" }],
  });
  await until("folk to stream", async () => (await server.get("/pipelines/folk")).state === "streaming");
  await databases.sql(target, "UPDATE folk.people SET name = 'somebody else' WHERE id = 2; DELETE FROM folk.people WHERE id = 4; UPDATE folk.people SET mail = 'clear@secret.example', born = NULL WHERE id = 5; INSERT INTO folk.people VALUES (0, 'nobody', NULL, NULL)");

  // From the table to its rows.
  await open("/p/folk");
  await row(page, "folk.people").getByRole("link", { name: /^rows of/ }).click();
  const rows = page.getByRole("region", { name: "rows of both sides" });
  await rows.getByText("person 10").first().waitFor();
  const lines = rows.locator("tbody");
  const told = async (at) => (await lines.nth(at).innerText()).replace(/\s+/g, " ");
  assert.match(await told(0), /^✓ same both 1 person 1 \*\*\*@secret\.example 1970-01-02/);
  assert.match(await told(1), /✗ differs source 2 differs: person 2 .* target 2 differs: somebody else/);
  assert.match(await told(3), /✗ not in the target source 4 .* target there is no such row/);
  assert.match(await told(4), /✗ differs .* target 5 person 5 differs: not shown differs: NULL/);
  assert.match(await told((await lines.count()) - 1), /✗ not on the source source there is no such row target 0 nobody/);
  assert.ok(!(await page.content()).includes("clear@"), "what no mask made is on the page");
  assert.match(await page.getByTestId("read").innerText(), /Masked as in the pipeline: mail \(partial\)/);
  await accessible("rows of both sides");
  await shot("pipeline-data");
  await inTheDark(page, shot, "pipeline-data-dark");

  // One of them by its key, from the keyboard; its address can be sent to somebody.
  await page.getByRole("form", { name: "trace a row" }).getByRole("textbox").fill("2");
  await page.keyboard.press("Enter");
  await until("one row", async () => (await lines.count()) === 1);
  assert.match(page.url(), /table=folk\.people&key=/);
  await page.reload();
  await until("the same row", async () => (await lines.count()) === 1 && /somebody else/.test(await told(0)));
  await accessible("one row");
  await databases.sql(target, "UPDATE folk.people SET name = 'person 2' WHERE id = 2");
  await page.getByRole("button", { name: "Look again" }).click();
  await until("the row to be the same", async () => /✓ same/.test(await told(0)));
  await page.getByRole("form", { name: "trace a row" }).getByRole("textbox").fill("4711");
  await page.keyboard.press("Enter");
  await page.getByText("Neither side has a row of this key.").waitFor();
  await page.getByRole("form", { name: "trace a row" }).getByRole("textbox").fill("x");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").filter({ hasText: "does not fit" }).waitFor();

  // A table is found by the name that it is shown under, whatever is in it.
  const odd = `"a.b"."c.d/'%2F🦀"`;
  await open("/p/folk");
  await row(page, odd).getByRole("link", { name: /^rows of/ }).click();
  await rows.getByText("the odd one").waitFor();
  await open("/p/folk");
  await row(page, odd).getByRole("button", { name: /^pause/ }).click();
  await until("it to be paused", async () => (await row(page, odd).innerText()).includes("paused"));

  await asViewer("/p/folk/data", async (theirs) => {
    await theirs.getByText("shown to operators and administrators").waitFor();
    assert.ok(!(await theirs.content()).includes("person 1"));
  });
  const headers = { authorization: `Bearer ${await server.token()}`, "if-match": "*" };
  await fetch(`${server.url}/api/v1/pipelines/folk`, { method: "DELETE", headers });
  await until("folk to be gone", async () => (await server.get("/pipelines/folk")).status === 404);
}
