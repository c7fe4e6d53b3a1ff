// What holds on every page.
import assert from "node:assert/strict";
import { fits, PAGES, shown, unbroken } from "./look.mjs";

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

export async function no_unit_is_parted_from_its_number_however_wide_the_page_is({ page, open }) {
  await open("/p/shop");
  await shown(page);
  for (let width = 320; width <= 1280; width += 20) {
    await page.setViewportSize({ width, height: 800 });
    await unbroken(page);
  }
}

/**
 * In the page: every text gets accents and two fifths more letters, placeholders and what stands before a folded cell as
 * well; gives what is cut off, goes beyond what it is in, or lies over something else then. What is drawn by a chart, and
 * what can be scrolled to, is not looked at.
 */
function longer() {
  const accents = { a: "å", c: "ç", e: "é", i: "î", n: "ñ", o: "ø", s: "š", u: "ü", y: "ÿ", A: "Å", E: "É", I: "Î", O: "Ø", S: "Š", U: "Ü" };
  const word = (word) => {
    const more = "éñ".repeat(Math.ceil((word.length * 0.4) / 2)).slice(0, Math.ceil(word.length * 0.4));
    return `${word.replace(/[a-zA-Z]/g, (letter) => accents[letter] ?? letter)}${more}`;
  };
  const stretched = (text) => text.replace(/[\p{L}\p{N}]+/gu, word);
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) if (walk.currentNode.data.trim() !== "" && !walk.currentNode.parentElement.closest("script, noscript, .chart")) texts.push(walk.currentNode);
  for (const text of texts) text.data = stretched(text.data);
  const asked = [...document.querySelectorAll("[placeholder]")];
  for (const field of asked) field.placeholder = stretched(field.placeholder);
  const folded = [...document.querySelectorAll("[data-k]")];
  for (const cell of folded) cell.dataset.k = stretched(cell.dataset.k);

  const isSeen = (one) => one.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !one.closest(".hidden, .skip, option");
  const pen = document.createElement("canvas").getContext("2d");
  const widthOf = (text, { font }) => {
    pen.font = font;
    return pen.measureText(text).width;
  };
  const wrong = [];
  const name = (text) => `"${text.data.trim().slice(0, 40)}" in ${text.parentElement.outerHTML.slice(0, 120)}`;
  const lines = [];
  for (const text of texts) {
    const own = text.parentElement;
    // A folded table's head is for those who hear the page.
    if (!isSeen(own) || getComputedStyle(own.closest("thead") ?? own).clipPath !== "none") continue;
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
  for (const field of asked.filter(isSeen)) {
    const style = getComputedStyle(field);
    const room = field.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const wide = widthOf(field.placeholder, style);
    // What a field is for is told by its label, and by its title where the example is cut off.
    if (wide > room + 1 && !field.title) wrong.push(`the placeholder "${field.placeholder}" is ${Math.ceil(wide)} wide in ${Math.floor(room)}`);
  }
  for (const cell of folded.filter(isSeen)) {
    const style = getComputedStyle(cell, "::before");
    if (style.content === "none" || style.overflowWrap === "anywhere") continue;
    const widest = Math.max(...cell.dataset.k.split(" ").map((one) => widthOf(one, style)));
    if (widest > parseFloat(style.width) + 1) wrong.push(`"${cell.dataset.k}" before a cell is ${Math.ceil(widest)} wide in ${style.width}`);
  }
  for (const one of [...document.body.querySelectorAll("*")].filter(isSeen)) {
    const { overflowX, overflowY, clipPath } = getComputedStyle(one);
    if (clipPath !== "none" || ![overflowX, overflowY].some((how) => how === "hidden" || how === "clip") || one.closest("[title], .chart, svg")) continue;
    const isCut = one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 3;
    if (isCut && one.textContent.trim() !== "") wrong.push(`${one.outerHTML.slice(0, 120)} cuts its text off, and no title tells it`);
  }
  const controls = [...document.querySelectorAll("button, .button, input, select, textarea, summary, nav a")].filter(isSeen);
  const boxes = controls.map((one) => one.getBoundingClientRect());
  for (const [at, one] of boxes.entries()) for (const [more, other] of boxes.slice(at + 1).entries()) {
    const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
    const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
    if (wide > 1 && high > 1) wrong.push(`${controls[at].outerHTML.slice(0, 80)} lies over ${controls[at + 1 + more].outerHTML.slice(0, 80)}`);
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
