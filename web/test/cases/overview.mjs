// All pipelines.

export async function an_empty_server_says_what_to_do({ page, accessible, shot }) {
  await page.getByText("No pipeline yet").waitFor();
  await page.locator("[data-link=live]").waitFor();
  await accessible("empty overview");
  await shot("overview-empty");
}

export async function u01_the_overview_is_live_and_its_title_says_how_it_is({ page, until, accessible, shot }) {
  await page.getByRole("link", { name: "Overview" }).click();
  const line = page.locator("tr, article").filter({ hasText: "shop" });
  await until("a latency that is known", async () => /\d (m?s)\b/.test(await line.first().innerText()));
  await until("the title", async () => /Tidemark$/.test(await page.title()) && /^[✓!?✗]/.test(await page.title()));
  await until("a line of the last minutes", async () => (await page.locator("svg.spark").count()) > 0);
  await accessible("overview");
  await shot("overview");
}
