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

/**
 * In the page: every text gets accents and two fifths more letters; gives what is cut off, goes beyond what it is in, or
 * lies over another text then. What is drawn by a chart, and what can be scrolled to, is not looked at.
 */
function longer() {
  const accents = { a: "å", c: "ç", e: "é", i: "î", n: "ñ", o: "ø", s: "š", u: "ü", y: "ÿ", A: "Å", E: "É", I: "Î", O: "Ø", S: "Š", U: "Ü" };
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) if (walk.currentNode.data.trim() !== "" && !walk.currentNode.parentElement.closest("script, noscript, .chart")) texts.push(walk.currentNode);
  for (const text of texts) {
    text.data = text.data.replace(/[\p{L}\p{N}]+/gu, (word) => {
      const more = "éñ".repeat(Math.ceil((word.length * 0.4) / 2)).slice(0, Math.ceil(word.length * 0.4));
      return `${word.replace(/[a-zA-Z]/g, (letter) => accents[letter] ?? letter)}${more}`;
    });
  }
  const wrong = [];
  const name = (text) => `"${text.data.trim().slice(0, 40)}" in ${text.parentElement.outerHTML.slice(0, 120)}`;
  const lines = [];
  for (const text of texts) {
    const own = text.parentElement;
    if (!own.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || own.closest(".hidden, .skip, thead, option")) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    const rects = [...range.getClientRects()].filter((rect) => rect.width > 1);
    for (const rect of rects) {
      for (let at = own; at !== document.body; at = at.parentElement) {
        const style = getComputedStyle(at);
        if (style.overflowX === "auto" || style.overflowX === "scroll") break;
        const box = at.getBoundingClientRect();
        const isInline = style.display === "inline" || style.display === "contents";
        if (!isInline && (rect.right > box.right + 1.5 || rect.left < box.left - 1.5)) {
          wrong.push(`${name(text)} is wider than ${at.tagName}.${at.className}`);
          break;
        }
        if (style.overflowY !== "visible" && style.overflowY !== "auto" && (rect.bottom > box.bottom + 3 || rect.top < box.top - 3)) wrong.push(`${name(text)} is cut off by ${at.tagName}.${at.className}`);
      }
      lines.push({ rect, text });
    }
  }
  for (const [at, one] of lines.entries()) for (const other of lines.slice(at + 1)) {
    if (one.text === other.text) continue;
    const wide = Math.min(one.rect.right, other.rect.right) - Math.max(one.rect.left, other.rect.left);
    const high = Math.min(one.rect.bottom, other.rect.bottom) - Math.max(one.rect.top, other.rect.top);
    if (wide > 3 && high > 6) wrong.push(`${name(one.text)} lies over ${name(other.text)}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
  return { count: texts.length, wrong: [...new Set(wrong)] };
}

export async function u13_longer_and_accented_text_is_not_cut_off_anywhere({ page, open, shot }) {
  for (const width of [1280, 320]) {
    await page.setViewportSize({ width, height: 800 });
    for (const path of PAGES.map((path) => path.replace("ID", "shop"))) {
      await open(path);
      await shown(page);
      const { count, wrong } = await page.evaluate(longer);
      assert.ok(count > 10, `${path} has ${count} texts`);
      assert.deepEqual(wrong.slice(0, 5), [], `${path}, ${width} wide`);
      if (path === "/p/shop" && width === 1280) await shot("pipeline-longer-words");
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 });
}

export async function u15_nobody_else_was_asked_and_no_policy_broken({ requests, server, complaints }) {
  assert.deepEqual([...requests].filter((origin) => origin !== "null"), [server.url]);
  assert.deepEqual(complaints, []);
}
