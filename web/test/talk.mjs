/**
 * Two viewers in real Chromiums at two nodes, who talk all the time:
 *
 *   node web/test/talk.mjs WATCH-URL-AT-ONE-NODE WATCH-URL-AT-ANOTHER
 *
 * Each writes a line every second or so; whoever calls this does something to the servers meanwhile, and ends it by closing its
 * standard input. Prints `talking` on standard error once both have heard each other, and one JSON line at the end: the lines
 * that each wrote, and those that each shows. Exit code 0 when both show the same, all that was written, in one order.
 */
import { open, report } from './browser.mjs';

const urls = process.argv.slice(2);
const told = { written: [], shown: [], errors: [] };
let over = false;
process.stdin.resume().on('end', () => (over = true));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const texts = (page) => page.locator('.chat-row:not(.chat-pending) .chat-text').allTextContents();

await report(told, async (browser) => {
  const pages = [];
  for (const [at, url] of urls.entries()) {
    const { page, seen } = await open(browser);
    told.errors.push(seen);
    await page.goto(url);
    await page.getByLabel('Your name in the chat').fill(`Viewer ${at}`);
    await page.getByRole('button', { name: 'Join' }).click();
    await page.getByLabel('Your message').waitFor();
    pages.push(page);
  }
  const write = async (at, n) => {
    const text = `line ${n} of ${at}`;
    await pages[at].getByLabel('Your message').fill(text);
    await pages[at].getByLabel('Your message').press('Enter');
    // Its own line is there at once, and then for good.
    await pages[at].locator('.chat-row:not(.chat-pending) .chat-text', { hasText: text }).waitFor({ timeout: 20_000 });
    told.written.push(text);
  };
  let n = 0;
  while (!over || n < 3) {
    for (const at of pages.keys()) await write(at, n);
    await sleep(1_200);
    n += 1;
    if (n === 2) {
      for (const page of pages) await page.locator('.chat-text', { hasText: 'line 1 of' }).nth(1).waitFor();
      process.stderr.write('talking\n');
    }
  }
  for (const page of pages) await page.locator('.chat-text', { hasText: told.written.at(-1) }).waitFor();
  told.shown = await Promise.all(pages.map(texts));
  const [one, other] = told.shown;
  if (JSON.stringify(one) !== JSON.stringify(other)) throw new Error('they show different lines');
  if (told.written.some((text) => one.filter((shown) => shown === text).length !== 1)) {
    throw new Error('a line is missing or there twice');
  }
  // Over a picture, and in a window of its own, is the same.
  for (const path of ['/overlay/alice/chat?size=30', '/chat/alice']) {
    const { page, seen } = await open(browser);
    told.errors.push(seen);
    await page.goto(new URL(path, urls[0]).href);
    await page.locator('.chat-text', { hasText: told.written.at(-1) }).waitFor();
    const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    if (path.startsWith('/overlay') && ground !== 'rgba(0, 0, 0, 0)') throw new Error(`the overlay's ground is ${ground}`);
  }
});
