/**
 * Plays a recording in a real Chromium and tells which lines of its chat stand beside which picture:
 *
 *   node web/test/replay.mjs WATCH-URL
 *
 * From its start, then near its end, then back. Prints one JSON line: `looks`, each with the time of the picture (ms since 1970)
 * before and after the lines were read, and those lines.
 */
import { open, report } from './browser.mjs';

const [url] = process.argv.slice(2);
const told = { looks: [], errors: null, exported: null };
await report(told, async (browser) => {
  const { page, seen } = await open(browser);
  told.errors = seen;
  await page.goto(url);
  const look = async () => {
    const found = await page.evaluate(() => {
      const lines = [...document.querySelectorAll('.chat-row .chat-text')].map(({ textContent }) => textContent);
      return { ms: window.weir.stats().pictureMs, lines };
    });
    told.looks.push(found);
  };
  const lines = () => page.locator('.chat-row').count();
  /** Looks on while the picture moves for so long. */
  const watch = async (seconds) => {
    const from = await page.evaluate(() => document.querySelector('video').currentTime);
    await page.waitForFunction((from) => document.querySelector('video').currentTime > from, from);
    const until = from + seconds;
    while ((await page.evaluate(() => document.querySelector('video').currentTime)) < until) {
      await look();
      await page.waitForTimeout(200);
    }
  };
  await page.locator('.chat-row').first().waitFor({ timeout: 20_000 });
  await watch(2);
  for (const to of [6, 1]) {
    const before = await lines();
    await page.evaluate((to) => (document.querySelector('video').currentTime = to), to);
    await page.waitForFunction((before) => document.querySelectorAll('.chat-row').length !== before, before);
    await watch(1);
  }
  told.exported = await page.locator('#chat-export').getAttribute('href');
});
