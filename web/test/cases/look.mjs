// What cases look for on a page, and names that nobody would give a table.

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
