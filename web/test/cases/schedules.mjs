// When pipelines are loaded anew: what is shown of it, what each action says it does, and that it does that.
import assert from "node:assert/strict";
import { fits, inTheDark } from "./look.mjs";

export async function schedules_are_told_in_words_and_each_action_does_what_it_says({ page, open, until, accessible, shot, asViewer, server, databases }) {
  await open("/schedules");
  await page.getByText("No pipeline has a schedule").waitFor();
  await accessible("no schedules");
  await databases.sql(databases.source, "CREATE SCHEMA nights; CREATE TABLE nights.prices (id int PRIMARY KEY, cents int); INSERT INTO nights.prices SELECT i, i * 100 FROM generate_series(1, 50) i");
  const side = (url) => ({ type: "postgres", url });
  const define = (name, how, schedule) => server.post(`/pipelines${how}`, {
    version: 1, pipeline: { name, mode: "full_load_only" }, source: side(databases.source), target: side(databases.target),
    tables: { include: ["nights.*"] }, verify: { after_load: "off" }, schedule,
  });
  await define("nightly", "?start=true", { full_load: "30 2 * * 1-5", timezone: "Europe/Berlin" });
  await until("the first load", async () => (await server.get("/pipelines/nightly")).state === "completed");

  // In words, in its zone, and five times of it.
  const line = (name) => page.getByRole("region", { name: "schedules" }).locator("tbody tr").filter({ has: page.getByRole("link", { name, exact: true }) });
  await line("nightly").waitFor();
  assert.match(await line("nightly").innerText(), /Monday to Friday at 02:30[\s\S]*30 2 \* \* 1-5[\s\S]*Europe\/Berlin[\s\S]*(Mon|Tue|Wed|Thu|Fri) \d{4}-\d\d-\d\d 02:30 \+0[12]:00[\s\S]*in \d[\s\S]*none yet/);
  const next = page.getByRole("region", { name: "next times of nightly" }).locator("tbody tr");
  assert.equal(await next.count(), 5);
  await page.getByText("No run yet").waitFor();

  // One that is left out: the dialog says which, and what stays.
  const dialog = page.getByRole("dialog");
  const effect = dialog.getByTestId("effect");
  const [first, second] = await next.locator("td:first-child").allInnerTexts();
  await page.getByRole("button", { name: "skip next: nightly" }).focus();
  await page.keyboard.press("Enter");
  await effect.filter({ hasText: first }).filter({ hasText: "What is in the target is not touched" }).waitFor();
  await effect.filter({ hasText: second }).filter({ hasText: "begins as ever" }).waitFor();
  await accessible("the dialog of a load that is left out");
  await shot("schedules-skip");
  await page.keyboard.press("Escape");
  await until("the focus where it was", async () => (await page.evaluate(() => document.activeElement?.textContent)) === "Skip next …");
  assert.equal((await server.get("/pipelines/nightly/schedule")).next[0].skipped_by, null, "it was left out without a word");
  await page.keyboard.press("Enter");
  await dialog.getByRole("button", { name: "Skip it" }).click();
  await until("it to be left out", async () => /left out by admin/.test(await next.first().innerText()));
  assert.ok((await line("nightly").innerText()).includes(second), "what is next is not the one after it");

  // A load now: readers see the old rows until the new ones are in, and then the new ones.
  await databases.sql(databases.source, "INSERT INTO nights.prices VALUES (51, 5100)");
  await page.getByRole("button", { name: "run now: nightly" }).click();
  await effect.filter({ hasText: "its one table of nightly" }).filter({ hasText: "when all are in" }).waitFor();
  await effect.filter({ hasText: "never fewer rows" }).waitFor();
  await accessible("the dialog of a load now");
  await shot("schedules-run-now");
  await dialog.getByRole("button", { name: "Run now" }).click();
  const runs = page.getByRole("region", { name: "runs of nightly" }).locator("tbody tr");
  await until("its end", async () => /completed[\s\S]*\d\sm?s[\s\S]*admin/.test(await runs.first().innerText()));
  assert.equal(await databases.sql(databases.target, "SELECT count(*) FROM nights.prices"), "51");
  await until("the last run", async () => /completed/.test(await line("nightly").innerText()));

  // Paused nothing begins; resumed it does.
  await page.getByRole("button", { name: "pause: nightly" }).click();
  await effect.filter({ hasText: "No load of nightly begins by itself" }).waitFor();
  await dialog.getByRole("button", { name: "Pause" }).click();
  await until("the pause", async () => /paused[\s\S]*by admin/.test(await line("nightly").innerText()));
  assert.notEqual((await server.get("/pipelines/nightly/schedule")).paused, null);
  await page.getByRole("button", { name: "resume: nightly" }).click();
  await effect.filter({ hasText: "not made up for" }).waitFor();
  await dialog.getByRole("button", { name: "Resume" }).click();
  await until("the end of the pause", async () => !/paused/.test(await line("nightly").innerText()));

  // One that is due and brings no load says so, by itself; what is refused says why, in the dialog.
  await define("restless", "", { full_load: "every 1s" });
  await until("a time that brought nothing", async () => /skipped[\s\S]*no load came of it: it was never started/.test(await line("restless").innerText()));
  assert.match(await line("restless").innerText(), /the pipeline was never started: what is due is left out/);
  await page.getByRole("button", { name: "times and runs of restless" }).click();
  await page.getByRole("region", { name: "runs of restless" }).locator("[data-run=skipped]").first().waitFor();
  await page.getByRole("button", { name: "run now: restless" }).click();
  await dialog.getByRole("button", { name: "Run now" }).click();
  await dialog.getByRole("alert").filter({ hasText: "it was never started" }).waitFor();
  await accessible("a load that is refused");
  await dialog.getByRole("button", { name: "Cancel" }).click();
  const headers = { authorization: `Bearer ${await server.token()}`, "if-match": "*" };
  const remove = async (name) => {
    await fetch(`${server.url}/api/v1/pipelines/${name}`, { method: "DELETE", headers });
    await until(`${name} to be gone`, async () => (await server.get(`/pipelines/${name}`)).status === 404);
  };
  await page.getByRole("button", { name: "times and runs of nightly" }).click();
  await page.getByRole("button", { name: "dismiss the message" }).click();
  await runs.first().waitFor();
  await accessible("schedules");
  await shot("schedules");
  await inTheDark(page, shot, "schedules-dark");
  await page.setViewportSize({ width: 320, height: 640 });
  await fits(page, "/schedules with runs");
  await page.setViewportSize({ width: 1280, height: 800 });

  // Who may look and nothing else.
  await asViewer("/schedules", async (theirs, asked) => {
    await theirs.getByRole("button", { name: "times and runs of nightly" }).waitFor();
    await theirs.getByRole("region", { name: "runs of nightly" }).waitFor();
    for (const name of ["run now", "skip next", "pause", "resume"]) assert.equal(await theirs.getByRole("button", { name: `${name}: nightly` }).count(), 0, name);
    for (const action of ["run", "skip", "pause", "resume"]) assert.equal((await asked(`/pipelines/nightly/schedule/actions/${action}`)).status, 403, action);
  });

  await remove("restless");
  await remove("nightly");
  await page.getByText("No pipeline has a schedule").waitFor();
  // Not asked is not none.
  await page.route("**/api/v1/schedules", (route) => route.abort());
  await open("/schedules");
  await page.getByRole("alert").waitFor();
  assert.ok(!(await page.locator("main").innerText()).includes("No pipeline has a schedule"));
  await accessible("schedules that cannot be read");
  await page.unroute("**/api/v1/schedules");
  // The page does so by itself too, by its clock.
  await page.getByRole("button", { name: "Ask again" }).click({ timeout: 2_000 }).catch(() => undefined);
  await page.getByText("No pipeline has a schedule").waitFor();
}
