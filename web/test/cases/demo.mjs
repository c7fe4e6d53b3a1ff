// The page of a demo, which has buttons that break it. It is a server of its own, as `tidemark demo` starts it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { freePort } from "../stage.mjs";
import { inTheDark } from "./look.mjs";

export async function the_demo_is_broken_from_its_page_which_shows_what_was_lost_and_doubled({ browsing, accessibleOn, shot, server, directory }) {
  // No other server offers it.
  assert.equal((await server.get("/version")).demo, false);
  assert.equal((await server.get("/demo")).status, 404);
  const url = `http://127.0.0.1:${await freePort()}`;
  // Commands find a demo by its directory for temporary files.
  const place = await mkdtemp(join(directory, "demo-"));
  const demo = spawn(server.program, ["demo", "--rows", "10000", "--tps", "50", "--port", new URL(url).port], { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, TMPDIR: place } });
  const own = await browsing();
  try {
    const gone = new Promise((_, fail) => demo.once("exit", (code) => fail(new Error(`the demo ended with ${code}`))));
    const ready = (async () => {
      for await (const line of createInterface({ input: demo.stdout })) if (line.startsWith("Ctrl-C")) return;
    })();
    await Promise.race([ready, gone]);
    gone.catch(() => undefined);
    demo.stdout.resume();
    const page = await own.newPage();
    await page.goto(url);
    const card = page.getByRole("region", { name: "Break it" });
    const button = (what) => card.getByRole("button", { name: `break ${what}` });
    for (const what of ["kill", "network", "freeze", "ddl", "poison"]) await button(what).waitFor();
    await accessibleOn(page, "the buttons of a demo");
    // The first is of the server that has the page: another comes in its place, and tells what came of it.
    for (const what of ["kill", "ddl"]) {
      await button(what).click();
      const came = page.getByRole("article", { name: `after ${what}` });
      await came.waitFor({ timeout: 120_000 });
      const facts = Object.fromEntries(await came.locator("dl > div").evaluateAll((all) => all.map((one) => [one.querySelector("dt").textContent, Number(one.querySelector("dd").textContent.replace(/\D/g, ""))])));
      assert.match(await came.innerText(), /identical/);
      assert.deepEqual([facts.lost, facts.doubled, facts.different], [0, 0, 0]);
      assert.ok(facts["rows written on the source meanwhile"] > 0 && facts["rows on the source"] > 10_000, JSON.stringify(facts));
      assert.equal(facts["rows in the target"], facts["rows on the source"]);
      assert.ok(!(await button("poison").isDisabled()));
    }
    await page.locator("[data-link=live]").waitFor();
    await accessibleOn(page, "what came of it");
    const shotOf = (name) => shot(name, page);
    await shotOf("demo-broken");
    await inTheDark(page, shotOf, "demo-broken-dark");
    await page.goto(`${url}/p/shop`);
    await card.waitFor();
  } finally {
    await own.close();
    const gone = new Promise((done) => demo.once("exit", done));
    if (demo.exitCode === null && demo.kill("SIGINT")) await gone;
  }
}
