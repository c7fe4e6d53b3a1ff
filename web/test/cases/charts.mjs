// Charts as they are on the canvas, which axe does not look at: every ratio is of pixels that were drawn.
import assert from "node:assert/strict";

/** What stands around the plot is text, what is in it are lines; WCAG 2.2, 1.4.3 and 1.4.11. */
const OF_TEXT = 4.5;
const OF_LINES = 3;

export async function u08_labels_and_lines_of_charts_are_readable_in_both_themes({ browsing, signedIn, server, until }) {
  // Two pixels for one: strokes of letters have a pixel that is all theirs.
  const own = await browsing("admin", { deviceScaleFactor: 2 });
  try {
    await signedIn(own);
    const page = await own.newPage();
    await page.goto(`${server.url}/p/shop/analytics`);
    await page.locator("figure").nth(4).locator("canvas").waitFor();
    // By the system, and by the button, which wins over it.
    const dark = { light: false, dark: true };
    for (const [system, press] of [["light", null], ["dark", null], ["dark", "light theme"], ["light", "dark theme"]]) {
      await page.emulateMedia({ colorScheme: system });
      if (press) await page.getByRole("button", { name: press }).click();
      const isDark = press ? press.startsWith("dark") : dark[system];
      const where = `${press ?? "no choice"} on a ${system} system`;
      let seen;
      await until(`lines and labels, ${where}`, async () => {
        seen = await page.evaluate(measured);
        return seen.panels.flatMap((panel) => panel.lines).every((line) => line.ratio !== null) && seen.panels.every((panel) => panel.labels.length === 2);
      });
      assert.equal(seen.isDark, isDark, where);
      assert.equal(seen.panels.length, 5);
      const worst = (of) => of.reduce((a, b) => (a.ratio < b.ratio ? a : b));
      const label = worst(seen.panels.flatMap((panel) => panel.labels));
      const line = worst(seen.panels.flatMap((panel) => panel.lines));
      assert.ok(label.ratio >= OF_TEXT, `${where}: ${JSON.stringify(label)}`);
      assert.ok(line.ratio >= OF_LINES, `${where}: ${JSON.stringify(line)}`);
    }
  } finally {
    await own.close();
  }
}

/** In the page: of each chart, how its labels and its lines stand out from what is around them. */
function measured() {
  const linear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ratio = (a, b) => {
    const [high, low] = [luminance(a), luminance(b)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const rgb = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number);
  const ground = rgb(getComputedStyle(document.body).backgroundColor);
  const middle = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? null;

  const panels = [...document.querySelectorAll("figure")].map((figure) => {
    const canvas = figure.querySelector("canvas");
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const over = figure.querySelector(".u-over").getBoundingClientRect();
    const all = canvas.getBoundingClientRect();
    const scale = width / all.width;
    const [left, top] = [Math.round((over.left - all.left) * scale), Math.round((over.top - all.top) * scale)];
    const [right, bottom] = [left + Math.round(over.width * scale), top + Math.round(over.height * scale)];
    /** A pixel as it is seen: the canvas lets the page through. */
    const seen = (x, y) => {
      const at = (y * width + x) * 4;
      const cover = data[at + 3] / 255;
      return [0, 1, 2].map((one) => data[at + one] * cover + ground[one] * (1 - cover));
    };
    const far = (a, b) => Math.abs(a[0] - b[0]) + Math.abs(a[1] - b[1]) + Math.abs(a[2] - b[2]);

    // Of letters the tenth of the pixels that stands out most: their strokes, not how they fade into the ground.
    const labels = [["of the values", 0, 0, left - 12 * scale, height], ["of the times", 0, bottom + 6 * scale, width, height]].flatMap(([name, x0, y0, x1, y1]) => {
      const ratios = [];
      for (let y = Math.round(y0); y < Math.min(height, y1); y += 1) for (let x = Math.round(x0); x < Math.min(width, x1); x += 1) {
        const pixel = seen(x, y);
        if (far(pixel, ground) > 40) ratios.push(ratio(pixel, ground));
      }
      if (ratios.length < 60) return [];
      ratios.sort((a, b) => b - a);
      return [{ name, ratio: ratios[Math.floor(ratios.length / 10)], pixels: ratios.length }];
    });

    // A line is what has the colour that is written beside its name; it must stand out from what is above and below it.
    const lines = [...figure.querySelectorAll("figcaption .key")].map((key) => {
      const colour = rgb(getComputedStyle(key).color);
      const ratios = [];
      // Every fourth column has enough of it.
      for (let x = left; x < right; x += 4) for (let y = top; y < bottom; y += 1) {
        const pixel = seen(x, y);
        if (far(pixel, colour) > 24) continue;
        for (const beside of [y - 5 * scale, y + 5 * scale]) {
          if (beside < top || beside >= bottom) continue;
          const other = seen(x, Math.round(beside));
          if (far(other, colour) > 24) ratios.push(ratio(pixel, other));
        }
      }
      return { name: key.textContent, ratio: ratios.length < 10 ? null : middle(ratios), pixels: ratios.length };
    });
    return { title: figure.querySelector("figcaption b").textContent, labels, lines };
  });
  return { isDark: luminance(ground) < 0.2, panels: panels };
}
