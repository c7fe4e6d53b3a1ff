// The page that shows the API.
import assert from "node:assert/strict";

export async function the_api_is_described_by_the_server_itself({ page, open, accessible, shot, server, until }) {
  await open("/api/docs");
  await page.getByRole("heading", { name: "API", exact: true }).waitFor();
  const document = await server.get("/openapi.json");
  const routes = Object.values(document.paths).reduce((sum, methods) => sum + Object.keys(methods).length, 0);
  const shown = page.locator("details");
  await until("every route", async () => (await shown.count()) === routes);
  await page.locator("#find").fill("quarantine/{number}/actions");
  await until("one route", async () => (await shown.count()) === 1);
  assert.match(page.url(), /q=quarantine/);
  // Opened by the keyboard.
  await shown.locator("summary").focus();
  await page.keyboard.press("Enter");
  await shown.getByRole("cell", { name: "retry or drop" }).waitFor();
  await accessible("the API");
  await shot("api-docs");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("api-docs-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.locator("#find").fill("nothing like that");
  await page.getByText("No route is like that").waitFor();
}
