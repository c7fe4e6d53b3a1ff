// What fires, by which rule, who is told, and what came of it.
import assert from "node:assert/strict";
import { Proxy } from "../stage.mjs";
import { fits, inTheDark } from "./look.mjs";

export async function what_fires_is_told_with_its_rule_and_whether_it_was_sent({ page, open, until, accessible, shot, asViewer, server, databases, receiver }) {
  await open("/alerts");
  await page.getByRole("heading", { name: "Nothing fires" }).waitFor();
  await page.getByText("No pipeline has a rule").waitFor();
  await page.getByText("nothing was sent yet").waitFor();
  await accessible("no alerts");

  // Its source is not reached: one rule can be judged, the other cannot, and is not calm.
  const wire = new Proxy(new URL(databases.source));
  await wire.listen();
  wire.cut();
  const side = (url) => ({ type: "postgres", url });
  await server.post("/pipelines?start=true", {
    version: 1, pipeline: { name: "watched", mode: "full_load_and_cdc" }, source: side(wire.url), target: side(databases.target), tables: { include: ["watched.*"] },
    alert: [
      { when: "state", is: ["stopped"], severity: "critical", resolve_after: "1s", notify: ["ops"] },
      { when: "lag_seconds", above: 60, for: "2m" },
    ],
  });
  const rule = (text) => page.getByRole("region", { name: "rules", exact: true }).locator("tbody tr").filter({ hasText: text });
  await until("a rule that is calm", async () => (await rule("when it is stopped").getAttribute("data-state")) === "calm");
  assert.match(await rule("when it is stopped").innerText(), /watched[\s\S]*critical[\s\S]*calm[\s\S]*ops/);
  const blind = rule("when the target is more than 60 s behind for 2m");
  assert.match(await blind.innerText(), /lag_seconds above 60 for 2m[\s\S]*unknown[\s\S]*not known now[\s\S]*nobody/);
  await page.getByText("One rule looks at what is not known now").waitFor();

  // It fires by itself on the page, is sent, and the overview counts it.
  await server.post("/pipelines/watched/actions/stop", {});
  const fires = page.getByRole("article", { name: "watched: state is stopped" });
  await fires.waitFor();
  assert.match(await fires.innerText(), /critical[\s\S]*since[\s\S]*! watched is stopped since [\s\S]*Rule: when it is stopped/);
  const messages = page.getByRole("region", { name: "messages" }).locator("tbody tr");
  await until("the message", async () => /ops[\s\S]*an alert of watched[\s\S]*delivered[\s\S]*answered 204/.test(await messages.first().innerText()));
  assert.equal(receiver.received.at(-1).body.type, "io.tidemark.alert.fired.v1");
  assert.ok(!(await page.locator("main").innerText()).includes("path-secret"), "a secret is shown");

  // A person snoozes it: everybody sees who and until when, and who wants to hears of it again.
  await fires.getByRole("button", { name: "snooze watched" }).click();
  const snoozing = page.getByRole("dialog");
  await snoozing.getByText("The alert stays here, with your name").waitFor();
  await accessible("the dialog of a snooze");
  await snoozing.getByLabel("For").selectOption("4 hours");
  await snoozing.getByRole("button", { name: "Snooze" }).click();
  await until("that it is snoozed", async () => /Snoozed by admin until [\s\S]*no message is sent/.test(await fires.innerText()));
  await accessible("an alert that is snoozed");
  await shot("alerts-snoozed");
  const untold = receiver.received.length;
  await fires.getByRole("button", { name: "tell again of watched" }).click();
  await until("that it is told again", async () => receiver.received.length === untold + 1 && !(await fires.innerText()).includes("Snoozed"));
  assert.equal(receiver.received.at(-1).body.type, "io.tidemark.alert.fired.v1");

  // A test is a real message; what the receiver answers is said where it was asked for.
  const dialog = page.getByRole("dialog");
  const result = dialog.getByTestId("result");
  await page.getByRole("button", { name: "test ops" }).focus();
  await page.keyboard.press("Enter");
  await dialog.getByText("Sends one real message").waitFor();
  const before = receiver.received.length;
  await accessible("the dialog of a test");
  assert.equal(receiver.received.length, before, "it was sent before anybody asked");
  await page.keyboard.press("Enter");
  await until("that it was taken", async () => /delivered[\s\S]*answered 204/.test(await result.innerText()));
  assert.equal(receiver.received.at(-1).body.type, "io.tidemark.notifier.test.v1");
  assert.match(JSON.stringify(receiver.received.at(-1).body), /admin asked for this test/);
  receiver.status = 404;
  await dialog.getByRole("button", { name: "Send again" }).click();
  await until("that it was refused", async () => /failed[\s\S]*TM\d{4}[\s\S]*answered 404/.test(await result.innerText()));
  await accessible("a test that failed");
  await shot("alerts-test");
  receiver.status = 204;
  await page.keyboard.press("Escape");
  await until("the focus where it was", async () => (await page.evaluate(() => document.activeElement?.textContent)) === "Test …");
  await until("the failed one", async () => /a test[\s\S]*failed[\s\S]*answered 404/.test(await messages.first().innerText()));
  await accessible("alerts");
  await shot("alerts");
  await inTheDark(page, shot, "alerts-dark");
  await page.setViewportSize({ width: 320, height: 640 });
  await fits(page, "/alerts with one that fires");
  await page.setViewportSize({ width: 1280, height: 800 });
  await open("/");
  await page.getByRole("link", { name: "1 fires" }).click();
  await fires.waitFor();

  // Who may look and nothing else.
  await asViewer("/alerts", async (theirs, asked) => {
    await theirs.getByRole("article", { name: "watched: state is stopped" }).waitFor();
    await theirs.getByRole("region", { name: "notifiers" }).waitFor();
    assert.equal(await theirs.getByRole("button", { name: "test ops" }).count(), 0);
    const sent = receiver.received.length;
    assert.equal((await asked("/notifiers/ops/test")).status, 403);
    assert.equal(receiver.received.length, sent);
  });

  // It is over by itself too.
  await server.post("/pipelines/watched/actions/start", {});
  await page.getByRole("heading", { name: "Nothing fires" }).waitFor();
  await until("its end to be told", async () => /the end of an alert of watched[\s\S]*delivered/.test(await messages.first().innerText()));
  // What it may have made is looked for on both sides.
  wire.mend();
  const headers = { authorization: `Bearer ${await server.token()}`, "if-match": "*" };
  await fetch(`${server.url}/api/v1/pipelines/watched`, { method: "DELETE", headers });
  await until("watched to be gone", async () => (await server.get("/pipelines/watched")).status === 404);
  wire.close();
  await page.getByText("No pipeline has a rule").waitFor();
  // Not asked is not nothing.
  await page.route("**/api/v1/alerts/active*", (route) => route.abort());
  await open("/alerts");
  await page.getByRole("alert").waitFor();
  assert.ok(!(await page.locator("main").innerText()).includes("Nothing fires"));
  await accessible("alerts that cannot be read");
  await page.unroute("**/api/v1/alerts/active*");
  // The page does so by itself too, by its clock.
  await page.getByRole("button", { name: "Ask again" }).click({ timeout: 2_000 }).catch(() => undefined);
  await page.getByRole("heading", { name: "Nothing fires" }).waitFor();
}
