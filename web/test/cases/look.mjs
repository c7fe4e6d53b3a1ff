// What cases look for on a page, and names that nobody would give a table.
import assert from "node:assert/strict";

export const HOSTILE = [
  `"><img src=x onerror=alert(1)>`,
  "rückwärts \u202eevil\u202c 🦀",
  "with'quote and.dot",
  "x".repeat(63),
];
export const ident = (name) => `"${name.replaceAll('"', '""')}"`;

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

/** The same in the dark. */
export async function inTheDark(page, shot, name) {
  await page.emulateMedia({ colorScheme: "dark" });
  await shot(name);
  await page.emulateMedia({ colorScheme: "light" });
}
