/** What the tests of the built pages share: one Chromium and one mock server for a file of tests, and ways to look at a page. */
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { chromium } from 'playwright-core';
import { LAUNCH, open } from './browser.mjs';
import { startMock } from './mock.mjs';

export let browser;
export let mock;

before(async () => {
  mock = await startMock();
  browser = await chromium.launch(LAUNCH);
});

after(async () => {
  await browser?.close();
  mock?.close();
});

export const stats = (page) => page.evaluate(() => window.weir.stats());
export const phase = (page, wanted, timeout = 30_000) => page.waitForFunction((p) => window.weir?.stats().phase === p, wanted, { timeout });
export const playing = (page, timeout = 30_000) =>
  page.waitForFunction(() => window.weir?.stats().playing && window.weir.stats().totalFrames > 15, null, { timeout });
export const heading = (page, name) => page.getByRole('heading', { name }).waitFor();

/** The playhead moves on by this much without a halt. */
export async function moves(page, seconds) {
  const from = await stats(page);
  await page.waitForFunction((to) => window.weir.stats().position >= to, from.position + seconds, { timeout: seconds * 3_000 });
  const to = await stats(page);
  assert.equal(to.stalls, from.stalls, `halted: ${to.errors.join('; ')}`);
}

/** Makes the page need a gesture for sound: Playwright's own evaluation counts as one to Chromium, at an unknown moment. */
function wantGesture() {
  const { play } = HTMLMediaElement.prototype;
  let touched = false;
  addEventListener('pointerdown', () => (touched = true), true);
  HTMLMediaElement.prototype.play = function () {
    return this.muted || touched ? play.call(this) : Promise.reject(new DOMException('a gesture first', 'NotAllowedError'));
  };
}

/** Opens `/watch/{name}`; the paths it asks for media are in `page.media`, all it asks for in `page.asked`. */
export async function watch(t, name = 'demo', options = {}) {
  const { ticket, ...context } = options;
  const { page, seen } = await open(browser, context);
  t.after(async () => {
    await page.context().close();
    assert.deepEqual(seen.cspViolations, []);
  });
  await page.addInitScript(wantGesture);
  page.media = [];
  page.asked = [];
  page.seen = seen;
  page.on('request', (request) => {
    const { pathname, search } = new URL(request.url());
    page.asked.push(`${request.method()} ${pathname}${search}`);
    if (/\/hls\//.test(pathname)) page.media.push(pathname);
  });
  await page.goto(`${mock.url}/watch/${name}${ticket === undefined ? '' : `#ticket=${ticket}`}`);
  return page;
}
