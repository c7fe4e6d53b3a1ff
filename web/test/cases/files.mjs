// Pipelines that files of the server define.
import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { Server, freePort } from "../stage.mjs";

export async function a_file_that_says_something_else_than_what_runs_is_shown({ page, server, databases, requests, until, accessible }) {
  const pipelines = `${server.state}-files`;
  await mkdir(pipelines);
  const file = `${pipelines}/filed.toml`;
  const text = `version = 1\n[pipeline]\nname = "filed"\nmode = "full_load_and_cdc"\n[source]\nurl = "${databases.source}"\n[target]\nurl = "${databases.target}"\nschema = "filed"\npassword = "hunter2"\n[tables]\ninclude = ["public.prices"]\n`;
  await writeFile(file, text);
  const other = new Server(server.program, `${server.state}-other`, await freePort(), server.file, ["--pipelines", pipelines]);
  try {
    await other.start();
    await until("filed to stream", async () => (await other.get("/pipelines/filed")).state === "streaming");
    const signed = await page.request.post(`${other.url}/api/v1/session`, { headers: { authorization: `Bearer ${await other.token()}` } });
    assert.equal(signed.status(), 204);
    await page.goto(`${other.url}/p/filed/configuration`);
    await page.getByText("What runs is what the file says.").waitFor();
    await page.getByText("is read-only here: the file wins").waitFor();
    assert.equal(await page.getByRole("button", { name: /^Change/ }).count(), 0);
    // A file that cannot be taken in: what runs goes on, and the page says how they differ.
    await writeFile(file, text.replace("mode =", "modee =").replace("hunter2", "hunter3"));
    await page.getByRole("button", { name: "Compare again" }).click();
    const shown = page.getByLabel("what the file changes");
    await shown.waitFor();
    const lines = await shown.innerText();
    for (const line of ['-mode = "full_load_and_cdc"', '+modee = "full_load_and_cdc"', '-password = "***"', '+password = "***"']) assert.ok(lines.includes(line), lines);
    assert.ok(!(await page.content()).includes("hunter"), "a secret is on the page");
    await accessible("a file that says something else");
    await writeFile(file, text);
    await page.getByRole("button", { name: "Compare again" }).click();
    await page.getByText("What runs is what the file says.").waitFor();
  } finally {
    // A page that stays goes on asking.
    await page.goto("about:blank");
    await other.stop();
    // A server of ours, asked on purpose.
    requests.delete(other.url);
    await until("the slot to be free", () => databases.sql(databases.source, "SELECT count(pg_drop_replication_slot(slot_name)) + 1 FROM pg_replication_slots WHERE slot_name = 'tidemark_filed'"));
  }
}
