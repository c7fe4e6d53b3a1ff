// What pipelines are connected to, and the slots of a source.
import assert from "node:assert/strict";

export async function slots_are_shown_with_who_reads_them_and_orphans_told_from_others({ page, open, until, accessible, shot, databases, proxy, server }) {
  await open("/connections");
  const measured = page.getByRole("region", { name: "slots of pipelines" });
  await until("its own slot", async () => /tidemark_shop[\s\S]*shop[\s\S]*yes[\s\S]*reserved/.test(await measured.innerText()));
  assert.ok(!(await page.locator("main").innerText()).includes("copier:copier"), "a secret is shown");
  await databases.sql(databases.source, "SELECT pg_create_logical_replication_slot('tidemark_gone', 'pgoutput')");
  const look = page.getByRole("button", { name: /^Look at/ });
  await look.focus();
  await page.keyboard.press("Enter");
  const slots = page.getByRole("region", { name: /^slots of \d/ });
  const line = (name) => slots.locator("tbody tr").filter({ has: page.locator("bdi", { hasText: new RegExp(`^${name}$`) }) });
  await until("the orphan", async () => /no pipeline of this server[\s\S]*nobody/.test(await line("tidemark_gone").innerText()));
  assert.match(await line("tidemark_shop").innerText(), /shop[\s\S]*pid \d+/);
  await accessible("connections");
  await shot("connections");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("connections-dark");
  await page.emulateMedia({ colorScheme: "light" });
  // What the page gives to copy is what mends it.
  await databases.sql(databases.source, await page.getByLabel("SQL that drops tidemark_gone", { exact: true }).innerText());
  await page.getByRole("button", { name: "Ask again" }).click();
  await line("tidemark_gone").waitFor({ state: "detached" });
  // A source that does not answer is said; what was measured stays with the server.
  proxy.cut();
  await open("/connections");
  await look.click();
  await page.getByRole("alert").waitFor();
  await accessible("connections that cannot be looked at");
  proxy.mend();
  await page.getByRole("button", { name: "Ask again" }).click();
  await line("tidemark_shop").waitFor();
  // What comes next asks something of a pipeline that is connected again.
  await until("the source to be known again", async () => {
    const lag = await server.get("/monitoring/pipelines/shop/lag");
    return lag.state === "streaming" && !lag.stale;
  });
}

export async function connections_by_name_are_made_tested_changed_and_deleted({ page, open, until, accessible, shot, databases, asViewer, server }) {
  await open("/connections");
  const add = async (name, url, password) => {
    await page.getByLabel("Name", { exact: true }).fill(name);
    await page.getByLabel("URL", { exact: true }).fill(url);
    await page.getByLabel("Password", { exact: true }).fill(password);
    await page.getByRole("button", { name: "Add a connection" }).click();
  };
  const named = page.getByRole("region", { name: "connections by name" });
  const line = (name) => named.locator("tbody tr").filter({ has: page.locator("bdi", { hasText: new RegExp(`^${name}$`) }) });
  await add("orders", "nonsense", "hunter2");
  await page.getByRole("alert").waitFor();
  await add("orders", databases.source, "");
  await line("orders").waitFor();
  await add("nowhere", "postgres://a@127.0.0.1:1/x", "hunter2");
  await line("nowhere").waitFor();
  assert.ok(!(await page.locator("main").innerText()).includes("hunter2"), "a secret is shown");
  await line("orders").getByRole("button", { name: "Test orders" }).click();
  await until("what the database says", async () => /✓ PostgreSQL \d+[\s\S]*wal_level logical/.test(await line("orders").innerText()));
  await line("nowhere").getByRole("button", { name: "Test nowhere" }).click();
  await until("why it does not answer", async () => /✗ TM1004[\s\S]*First:/.test(await line("nowhere").innerText()));
  // Changed by the same form: a password that nobody types stays, one that stands in the URL as well.
  await line("nowhere").getByRole("button", { name: "Change nowhere …" }).click();
  const change = page.getByRole("dialog", { name: "Change nowhere" });
  const url = change.getByLabel("URL", { exact: true });
  assert.equal(await url.inputValue(), "postgres://a@127.0.0.1:1/x");
  assert.equal(await change.getByLabel("Password", { exact: true }).inputValue(), "");
  await accessible("a connection that is changed");
  await url.fill("nonsense");
  await change.getByRole("button", { name: "Change it" }).click();
  await change.getByRole("alert").waitFor();
  await url.fill("postgres://b@127.0.0.1:1/y");
  await change.getByRole("button", { name: "Change it" }).click();
  await change.waitFor({ state: "detached" });
  await until("the other address", async () => /b@127\.0\.0\.1:1\/y/.test(await line("nowhere").innerText()));
  const { keys } = await server.get("/connections/nowhere");
  assert.deepEqual(keys, { url: "postgres://b@127.0.0.1:1/y", password: "***" });
  // Somebody else was quicker.
  await line("nowhere").getByRole("button", { name: "Change nowhere …" }).click();
  await server.put("/connections/nowhere", { url: "postgres://c@127.0.0.1:1/y", password: "***" });
  await change.getByRole("button", { name: "Change it" }).click();
  await until("that it was changed meanwhile", async () => /TM8025/.test(await change.getByRole("alert").innerText()));
  await page.keyboard.press("Escape");
  await accessible("connections by name");
  await shot("connections-named");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("connections-named-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 320, height: 640 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it is wider than the page");
  await page.setViewportSize({ width: 1280, height: 800 });
  await asViewer("/connections", async (theirs, asked) => {
    await theirs.getByRole("region", { name: "connections by name" }).waitFor();
    assert.equal(await theirs.getByRole("button", { name: /^(Test|Change|Delete|Add)/ }).count(), 0);
    assert.equal((await asked("/connections/orders/test")).status, 403);
  });
  for (const name of ["orders", "nowhere"]) {
    await line(name).getByRole("button", { name: `Delete ${name} …` }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete", exact: true }).click();
    await line(name).waitFor({ state: "detached" });
  }
}
