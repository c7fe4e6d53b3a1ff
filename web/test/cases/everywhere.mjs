// What holds on every page.
import assert from "node:assert/strict";
import { fits, header, PAGES, shown } from "./look.mjs";

export async function u09_the_keyboard_is_enough({ page, open, until }) {
  await open("/settings");
  await page.locator("[data-link=live]").waitFor();
  await page.keyboard.press("g");
  await page.keyboard.press("o");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "shop", exact: true }).waitFor();
  await until("the focus on the page's heading", async () => (await page.evaluate(() => document.activeElement?.tagName)) === "H1");
  const tabTo = async (name) => {
    for (let count = 0; count < 60; count += 1) {
      await page.keyboard.press("Tab");
      const [said, ring] = await page.evaluate(() => [document.activeElement?.textContent ?? "", getComputedStyle(document.activeElement).outlineStyle]);
      assert.notEqual(ring, "none", `no ring on ${said.slice(0, 40)}`);
      if (said === name) return;
    }
    throw new Error(`${name} is not reached`);
  };
  await tabTo("Pause");
  await page.keyboard.press("Enter");
  await until("paused", async () => (await header(page).innerText()).includes("paused"));
  await until("by whom", async () => (await header(page).innerText()).includes("by admin"));
  await tabTo("Resume");
  await page.keyboard.press("Enter");
  await until("streaming", async () => (await header(page).innerText()).includes("streaming"));
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await page.keyboard.press("Escape");
}

export async function u10_every_page_fits_into_320_pixels({ page, open, shot }) {
  await page.setViewportSize({ width: 320, height: 640 });
  for (const path of PAGES.map((path) => path.replace("ID", "shop"))) {
    await open(path);
    await shown(page);
    await fits(page, path);
    if (path === "/p/shop") await shot("pipeline-narrow");
  }
  await page.setViewportSize({ width: 1280, height: 800 });
}

export async function u15_nobody_else_was_asked_and_no_policy_broken({ requests, server, complaints }) {
  assert.deepEqual([...requests].filter((origin) => origin !== "null"), [server.url]);
  assert.deepEqual(complaints, []);
}
