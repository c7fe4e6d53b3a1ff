// Sign in, tokens, and what each role is shown.
import assert from "node:assert/strict";
import { row } from "./look.mjs";

export async function a_token_is_asked_for_and_a_wrong_one_refused({ page, open, server, accessible, shot }) {
  await open("/");
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await accessible("sign in");
  await page.getByLabel("Token").fill("tm_wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").getByText("mistyped, has expired, or was taken back").waitFor();
  await shot("sign-in-refused");
  await page.getByLabel("Token").fill(await server.token());
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
}

export async function tokens_are_shown_once_and_a_viewer_has_no_buttons({ page, open, accessible, until, shot, server }) {
  await open("/settings/tokens");
  await page.getByLabel("For whom").fill("ana");
  await page.getByRole("button", { name: "Give out a token" }).click();
  const token = await page.locator("pre").innerText();
  assert.match(token, /^tm_[0-9a-f]{64}$/);
  await accessible("tokens");
  await open("/settings/tokens");
  await page.getByRole("cell", { name: "ana", exact: true }).waitFor();
  assert.ok(!(await page.locator("main").innerText()).includes(token));
  await open("/settings/audit");
  await page.getByText("POST /api/v1/tokens").first().waitFor();
  await accessible("audit");
  await shot("settings-audit");
  await open("/settings");
  await accessible("settings");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("link", { name: "Overview" }).click();
  await page.getByRole("link", { name: "shop", exact: true }).last().click();
  await row(page, "public.orders").waitFor();
  for (const name of ["Pause", "Stop", "Verify", "Force resync …", "Delete …"]) assert.equal(await page.getByRole("button", { name, exact: true }).count(), 0, name);
  const refused = await fetch(`${server.url}/api/v1/pipelines/shop/actions/pause`, { method: "POST", headers: { authorization: `Bearer ${token}` } });
  assert.equal(refused.status, 403);
  await open("/settings");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").fill(await server.token());
  await page.getByRole("button", { name: "Sign in" }).click();
  await until("the administrator", async () => (await page.locator("header").innerText()).includes("admin"));
}
