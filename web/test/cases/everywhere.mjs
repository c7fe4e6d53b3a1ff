// What holds on every page.
import assert from "node:assert/strict";
import { fits, PAGES, shown } from "./look.mjs";

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
