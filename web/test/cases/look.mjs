// What cases look for on a page, and names that nobody would give a table.
import assert from "node:assert/strict";

export const HOSTILE = [
  `"><img src=x onerror=alert(1)>`,
  "rückwärts \u202eevil\u202c 🦀",
  "with'quote and.dot",
  "x".repeat(63),
];
export const ident = (name) => `"${name.replaceAll('"', '""')}"`;

/** Every page; `ID` is a pipeline. */
export const PAGES = [
  "/", "/p/ID", "/p/ID/analytics", "/p/ID/events", "/p/ID/logs", "/p/ID/data", "/p/ID/verification", "/p/ID/configuration", "/p/ID/quarantine",
  "/quarantine", "/connections", "/schedules", "/alerts", "/api/docs", "/new", "/settings", "/settings/tokens", "/settings/audit", "/codes/TM1010",
];

/** Until a page shows what it asked for. */
export async function shown(page) {
  await page.locator("main h1").waitFor();
  await page.locator("[data-link=live]").waitFor();
  await page.locator("[aria-busy]").first().waitFor({ state: "detached" });
}

export const row = (page, name) => page.locator("tbody tr").filter({ has: page.locator("bdi", { hasText: name }) }).first();
export const header = (page) => page.locator(".head");
export const said = (page) => page.locator(".toast");

/** Nothing goes beyond 320 pixels but what scrolls by itself. */
export async function fits(page, path) {
  const [wide, worst] = await page.evaluate(() => {
    const wide = document.documentElement.scrollWidth;
    const beyond = [...document.querySelectorAll("main *, header *")].find((one) => one.getBoundingClientRect().right > 321 && !one.closest(".scroll, pre, .chart"));
    return [wide, beyond?.outerHTML.slice(0, 200)];
  });
  assert.ok(wide <= 320, `${path} is ${wide} wide: ${worst}`);
}

/** No number is on one line and its unit on the next, where texts are the page's own. */
export async function unbroken(page) {
  const broken = await page.evaluate(() => {
    const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      for (const found of texts.currentNode.data.matchAll(/\d\s(B|kB|MB|GB|ms|s|m|h|d|%)(?!\w)/g)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, found.index);
        range.setEnd(texts.currentNode, found.index + found[0].length);
        if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) return texts.currentNode.data;
      }
    }
    return null;
  });
  assert.equal(broken, null, "a unit is parted from its number");
}

/** The same in the dark. */
export async function inTheDark(page, shot, name) {
  await page.emulateMedia({ colorScheme: "dark" });
  await shot(name);
  await page.emulateMedia({ colorScheme: "light" });
}
