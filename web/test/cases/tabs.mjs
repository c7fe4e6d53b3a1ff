// Several tabs of one browser, and one that stays open.
import assert from "node:assert/strict";
import { row, shown } from "./look.mjs";

/** Of how long the pages are gone through; a day's worth by SOAK_SECONDS. */
const SOAK_SECONDS = Number(process.env.SOAK_SECONDS ?? 12);

const heard = (page) => page.evaluate(() => Number(document.documentElement.dataset.messages));

export async function u16_two_tabs_share_one_stream_and_each_has_a_look_of_its_own({ browsing, signedIn, server, until }) {
  const own = await browsing("admin", { timezoneId: "Asia/Tokyo" });
  try {
    await signedIn(own);
    const streams = [];
    own.on("request", (request) => request.url().endsWith("/events/stream") && streams.push(request));
    const [first, second] = [await own.newPage(), await own.newPage()];
    for (const [page, path] of [[first, "/p/shop"], [second, "/p/shop/analytics"]]) {
      await page.goto(`${server.url}${path}`);
      await page.locator("[data-link=live]").waitFor();
    }
    const grows = async (page, what) => {
      const before = await heard(page);
      await until(`news in ${what}`, async () => (await heard(page)) > before + 2);
    };
    await Promise.all([grows(first, "the first tab"), grows(second, "the second tab")]);
    assert.equal(streams.length, 1, "each tab has a stream of its own");

    // The one that listens is closed: the other goes on after the last it heard.
    await first.close();
    await grows(second, "the tab that is left");
    assert.equal(streams.length, 2);
    assert.ok(Number((await streams[1].allHeaders())["last-event-id"]) > 0, "it begins anew instead of going on");
    // One that hears nothing of it for long (here: since its clock was turned) listens itself.
    const third = await own.newPage();
    await third.clock.install();
    await third.goto(`${server.url}/p/shop`);
    await grows(third, "a third tab");
    assert.equal(streams.length, 2);
    await third.clock.fastForward(40_000);
    await until("another to listen", () => streams.length === 3);
    await Promise.all([grows(second, "the tab it was taken from"), grows(third, "the tab that took it")]);
    assert.equal(streams.length, 3);

    // Theme, zone and freeze are of the tab; the theme is what the next one begins with.
    const isDark = (page) => page.evaluate(() => document.documentElement.dataset.theme === "dark");
    await third.getByRole("button", { name: "dark theme" }).click();
    assert.deepEqual([await isDark(second), await isDark(third)], [false, true]);
    await third.goto(`${server.url}/p/shop/analytics`);
    await third.locator(".uplot canvas").first().waitFor();
    assert.ok(await isDark(third), "it forgot its theme");
    const hour = async (page) => {
      await page.getByRole("button", { name: "as table" }).click();
      const first = await page.getByRole("region", { name: "measurements" }).locator("tbody td").first().innerText();
      await page.getByRole("button", { name: "as table" }).click();
      return Number(/(\d\d):\d\d:\d\d$/.exec(first)[1]);
    };
    await second.getByLabel("times").selectOption("UTC");
    // Nine hours apart, but for an hour that begins in between.
    await until("times of two zones", async () => ((await hour(third)) - (await hour(second)) + 24) % 24 === 9);
    await second.reload();
    assert.equal(await second.getByLabel("times").inputValue(), "UTC", "it forgot its zone");
    await second.getByLabel("freeze").check();
    assert.equal(await third.getByLabel("freeze").isChecked(), false);
    const fourth = await own.newPage();
    await fourth.goto(`${server.url}/p/shop`);
    await row(fourth, "public.orders").waitFor();
    assert.ok(await isDark(fourth));
    // A frozen one stands still, the others move.
    const frozen = async () => second.getByRole("img", { name: /^Gap/ }).getAttribute("aria-label");
    const before = await frozen();
    await grows(fourth, "the fourth tab");
    assert.equal(await frozen(), before);
  } finally {
    await own.close();
  }
}

export async function u16_a_page_that_stays_open_does_not_grow({ browsing, signedIn, server }) {
  const own = await browsing();
  try {
    await signedIn(own);
    const page = await own.newPage();
    const devtools = await own.newCDPSession(page);
    await page.goto(`${server.url}/p/shop`);
    const round = async () => {
      for (const name of ["Analytics", "Events", "Verification", "Quarantine", "Configuration", "Tables"]) {
        await page.getByRole("navigation", { name: "views of shop" }).getByRole("link", { name }).click();
        await shown(page);
      }
      for (const name of ["Overview", "Connections", "Schedules", "Alerts"]) {
        await page.getByRole("navigation", { name: "pages" }).getByRole("link", { name }).click();
        await shown(page);
      }
      await page.goBack();
      await page.getByRole("link", { name: "Overview" }).click();
      await page.getByRole("link", { name: "shop", exact: true }).first().click();
      await shown(page);
    };
    const size = async () => {
      await devtools.send("HeapProfiler.collectGarbage");
      return (await devtools.send("Runtime.getHeapUsage")).usedSize;
    };
    for (let count = 0; count < 2; count += 1) await round();
    const before = await size();
    const end = Date.now() + SOAK_SECONDS * 1_000;
    let rounds = 0;
    do {
      await round();
      rounds += 1;
    } while (Date.now() < end);
    const grown = (await size()) - before;
    console.log(`heap: ${Math.round(before / 1_000)} kB, ${Math.round(grown / 1_000)} kB more after ${rounds} rounds of all pages`);
    // News are kept for a quarter of an hour, so it grows a little at first; what every round left behind would be much more.
    assert.ok(grown < 10_000_000 && grown < 200_000 * rounds + 500_000, `${grown} bytes more after ${rounds} rounds`);
  } finally {
    await own.close();
  }
}
