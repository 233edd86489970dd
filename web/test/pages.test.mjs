/** The built pages in a real Chromium against the mock server: every state, and every way back. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { LAUNCH, open } from './browser.mjs';
import { startMock } from './mock.mjs';

let browser;
let mock;

before(async () => {
  mock = await startMock();
  browser = await chromium.launch(LAUNCH);
});

after(async () => {
  await browser?.close();
  mock?.close();
});

const stats = (page) => page.evaluate(() => window.weir.stats());
const phase = (page, wanted, timeout = 30_000) => page.waitForFunction((p) => window.weir?.stats().phase === p, wanted, { timeout });
const playing = (page, timeout = 30_000) =>
  page.waitForFunction(() => window.weir?.stats().playing && window.weir.stats().totalFrames > 15, null, { timeout });
/** The playhead moves on by this much without a halt. */
async function moves(page, seconds) {
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

async function watch(t, name = 'demo', options = {}) {
  const { page, seen } = await open(browser, options);
  t.after(async () => {
    await page.context().close();
    assert.deepEqual(seen.cspViolations, []);
  });
  await page.addInitScript(wantGesture);
  await page.goto(`${mock.url}/watch/${name}`);
  return page;
}

test('waits for a stream that is not live, starts by itself, and says so', async (t) => {
  mock.set('offline');
  const page = await watch(t);
  await phase(page, 'waiting');
  await page.getByRole('heading', { name: 'demo is not live yet' }).waitFor();
  assert.match(await page.getByRole('status').textContent(), /not live yet/);
  mock.set('live');
  await playing(page);
  await page.getByRole('heading', { name: 'demo is not live yet' }).waitFor({ state: 'hidden' });
  assert.equal(await page.getByRole('status').textContent(), 'demo is live');
  await moves(page, 4);
});

test('sound is off when the browser wants a gesture first, and one button turns it on', async (t) => {
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  assert.equal((await stats(page)).muted, true);
  await page.getByRole('button', { name: 'Turn sound on' }).click();
  assert.equal((await stats(page)).muted, false);
  await page.getByRole('button', { name: 'Turn sound on' }).waitFor({ state: 'hidden' });
});

test('the quality menu works by keyboard alone, drops no frame, and comes back to automatic', async (t) => {
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  // The first frames may be dropped while the decoder warms up.
  await moves(page, 3);
  const button = page.getByRole('button', { name: 'Quality: Auto (720p)' });
  await button.focus();
  const from = await stats(page);
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.activeElement?.localName === 'media-rendition-menu');
  assert.deepEqual(await page.getByRole('menuitemradio').allTextContents(), ['720p source', '480p', 'Auto (720p)']);
  assert.equal(await page.getByRole('menuitemradio', { checked: true }).textContent(), 'Auto (720p)');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowUp');
  await page.getByRole('menuitemradio', { name: '480p', exact: true }).focus();
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => window.weir.stats().height === 480, null, { timeout: 20_000 });
  const to = await stats(page);
  assert.equal(to.automatic, false);
  assert.equal(to.stalls, from.stalls);
  // Software decoding on a busy machine drops one now and then; a switch that flushes drops half a second.
  assert.ok(to.droppedFrames - from.droppedFrames <= 3, `${to.droppedFrames - from.droppedFrames} dropped`);
  await page.getByRole('button', { name: 'Quality: 480p' }).click();
  await page.getByRole('menuitemradio', { name: 'Auto' }).click();
  await page.waitForFunction(() => window.weir.stats().automatic);
});

test('the live button takes a viewer who fell behind to the edge', async (t) => {
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  await moves(page, 5);
  await page.evaluate(() => {
    const video = document.querySelector('video');
    video.currentTime -= 4;
  });
  const live = page.locator('media-live-button');
  await page.waitForFunction(() => !document.querySelector('media-live-button').hasAttribute('mediatimeislive'));
  // hls.js measures anew with the next timeupdate.
  await page.waitForFunction(() => window.weir.stats().latency > 8, null, { timeout: 5_000 });
  const behind = (await stats(page)).latency;
  await live.click();
  await page.waitForFunction(() => document.querySelector('media-live-button').hasAttribute('mediatimeislive'));
  await page.waitForFunction((limit) => window.weir.stats().latency < limit, behind - 2, { timeout: 5_000 });
  const { latency } = await stats(page);
  assert.ok(latency > 4, `${behind} to ${latency}`);
});

test('low latency is on until switched off, by keyboard too, and the choice is kept', async (t) => {
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  const button = (pressed) => page.getByRole('button', { name: 'Low latency', pressed });
  const config = () =>
    page.evaluate(() => {
      const { lowLatencyMode, liveSyncDurationCount, liveMaxLatencyDurationCount } = window.weir.hls.config;
      return { lowLatencyMode, liveSyncDurationCount, liveMaxLatencyDurationCount };
    });
  await button(true).focus();
  assert.equal((await stats(page)).lowLatency, true);
  assert.deepEqual(await config(), { lowLatencyMode: true, liveSyncDurationCount: 3, liveMaxLatencyDurationCount: 10 });
  const { restarts } = await stats(page);
  await page.evaluate(() => {
    window.covered = [];
    const watch = document.getElementById('watch');
    const note = () => window.covered.push(watch.dataset.covered, watch.dataset.picture);
    new MutationObserver(note).observe(watch, { attributes: true });
  });
  await page.keyboard.press('Space');
  await button(false).waitFor();
  await playing(page);
  assert.deepEqual([...new Set(await page.evaluate(() => window.covered))].sort(), ['no', 'yes'], 'the last picture stays, uncovered');
  assert.equal((await stats(page)).lowLatency, false);
  assert.equal((await stats(page)).restarts, restarts);
  assert.deepEqual(await config(), { lowLatencyMode: false, liveSyncDurationCount: 3, liveMaxLatencyDurationCount: 10 });
  await page.reload();
  await playing(page);
  await button(false).waitFor();
  assert.equal((await config()).lowLatencyMode, false);
});

test('a page without storage plays with low latency, and its switch works', async (t) => {
  mock.set('live');
  const { page } = await open(browser);
  t.after(() => page.context().close());
  await page.addInitScript(() => Object.defineProperty(window, 'localStorage', { get: () => { throw new DOMException('no', 'SecurityError'); } }));
  await page.goto(`${mock.url}/watch/demo`);
  await page.getByRole('button', { name: 'Low latency', pressed: true }).click();
  await page.getByRole('button', { name: 'Low latency', pressed: false }).waitFor();
  assert.equal((await stats(page)).lowLatency, false);
});

test('parts are played about a second behind, from the edge again after a halt, and not without low latency', async (t) => {
  mock.set('offline');
  await fetch(`${mock.url}/mock?parts=yes&state=live`, { method: 'POST' });
  t.after(async () => {
    await fetch(`${mock.url}/mock?parts=no&state=offline`, { method: 'POST' });
  });
  const page = await watch(t);
  await playing(page);
  const near = () => page.waitForFunction(() => window.weir.stats().latency !== null && window.weir.stats().latency < 1.5, null, { timeout: 15_000 });
  await near();
  await moves(page, 4);
  assert.ok(Math.abs((await stats(page)).targetLatency - 1.08) < 0.01);
  assert.match(await page.locator('#behind').textContent(), /^1\.\d s$/);
  assert.equal(await page.locator('#health').textContent(), 'Playing smoothly');

  await page.getByRole('button', { name: 'Quality: Auto (720p)' }).click();
  await page.getByRole('menuitemradio', { name: '480p', exact: true }).click();
  await page.waitForFunction(() => window.weir.stats().height === 480, null, { timeout: 10_000 });
  const toggle = page.getByRole('button', { name: 'Low latency' });
  await toggle.click();
  await page.waitForFunction(() => window.weir.stats().latency > 5, null, { timeout: 10_000 });
  await moves(page, 3);
  const { automatic, height } = await stats(page);
  assert.deepEqual({ automatic, height }, { automatic: false, height: 480 });
  await toggle.click();
  await near();

  mock.set('down');
  await page.waitForFunction((ms) => window.weir.stats().stallMs > ms, (await stats(page)).stallMs + 4_000, { timeout: 20_000 });
  mock.set('live');
  await page.waitForFunction(() => window.weir.stats().playing && window.weir.stats().latency < 3.5, null, { timeout: 10_000 });
  await moves(page, 3);
});

test('an encoder that drops and returns: last picture, words, and on by itself with a full buffer', async (t) => {
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  const { restarts } = await stats(page);
  mock.set('away');
  await phase(page, 'away');
  await page.getByRole('heading', { name: 'The streamer is away' }).waitFor();
  assert.equal((await stats(page)).height > 0, true);
  // Away for longer than the halt after which play is held back, and than a player may stand when there is media.
  await page.waitForFunction(() => window.weir.stats().stallMs > 11_000, null, { timeout: 30_000 });
  mock.set('live');
  await phase(page, 'live');
  await page.waitForFunction(() => window.weir.stats().playing, null, { timeout: 20_000 });
  await moves(page, 6);
  assert.equal((await stats(page)).restarts, restarts);
});

test('a page opened while the streamer is away says so and starts when the picture returns', async (t) => {
  mock.set('live');
  mock.set('away');
  // The whole window becomes gaps only after 30 s; a fresh broadcast of gaps is quicker.
  mock.set('offline');
  mock.set('live');
  mock.set('away');
  const page = await watch(t);
  await phase(page, 'away');
  await page.waitForFunction(() => ['still', 'loading'].includes(window.weir.stats().motion) && !document.getElementById('curtain').hidden, null, { timeout: 30_000 });
  mock.set('live');
  await playing(page);
  await phase(page, 'live');
});

for (const chunks of [0, 1, 2]) {
  test(`a viewer who joins ${chunks} chunks after the encoder came back starts behind the hole`, async (t) => {
    mock.set('offline');
    mock.set('live');
    mock.set('away');
    // Longer than a player stays behind the edge: its start lies in the hole.
    mock.pass(6);
    mock.set('live');
    mock.pass(chunks);
    const page = await watch(t);
    await playing(page);
    const { restarts, errors } = await stats(page);
    assert.equal(restarts, 0, errors.join('; '));
    await moves(page, 4);
  });
}

test('a short server restart costs no new player and no picture', async (t) => {
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  await moves(page, 2);
  const from = await stats(page);
  mock.set('down');
  await page.waitForFunction((to) => window.weir.stats().position > to, from.position + 2.5);
  mock.set('live');
  await page.waitForFunction((to) => window.weir.stats().position > to, from.position + 10, { timeout: 30_000 });
  const to = await stats(page);
  assert.equal(to.restarts, from.restarts, to.errors.join('; '));
  assert.equal(to.phase, 'live');
});

test('a server that is gone for long is told and comes back without a reload', async (t) => {
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  await page.evaluate(() => (window.mark = 'same page'));
  mock.set('down');
  await phase(page, 'unreachable');
  await page.getByRole('heading', { name: 'The server does not answer' }).waitFor();
  await page.waitForFunction(() => window.weir.stats().restarts >= 1, null, { timeout: 60_000 });
  mock.set('live');
  await phase(page, 'live', 60_000);
  await playing(page);
  assert.equal(await page.evaluate(() => window.mark), 'same page');
});

test('the end is played out, and a new broadcast under the same address starts by itself', async (t) => {
  mock.set('offline');
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  mock.set('offline');
  await phase(page, 'ended');
  await page.getByRole('heading', { name: 'The broadcast has ended' }).waitFor();
  assert.equal((await stats(page)).motion, 'ended');
  mock.set('live');
  await phase(page, 'live');
  await playing(page);
});

test('a viewer who paused stays paused when the encoder drops and returns', async (t) => {
  mock.set('live');
  const page = await watch(t);
  await playing(page);
  await page.locator('media-control-bar media-play-button').click();
  await page.waitForFunction(() => window.weir.stats().paused);
  mock.set('away');
  mock.set('live');
  await page.waitForFunction(() => document.getElementById('curtain').hidden);
  assert.equal((await stats(page)).paused, true);
});

test('sound without a picture plays, and says what it is', async (t) => {
  await fetch(`${mock.url}/mock?sound=only&state=live`, { method: 'POST' });
  t.after(() => fetch(`${mock.url}/mock?sound=no`, { method: 'POST' }));
  const page = await watch(t);
  await page.waitForFunction(() => window.weir?.stats().playing && window.weir.stats().position > 0, null, { timeout: 30_000 });
  await page.locator('#curtain').waitFor({ state: 'hidden' });
  await page.locator('#quality', { hasText: 'Sound only' }).waitFor();
  assert.equal(await page.locator('media-rendition-menu-button').isVisible(), false);
  await moves(page, 3);
});

test('an unknown stream is told, with a way out', async (t) => {
  const page = await watch(t, 'nobody');
  await phase(page, 'unknown');
  await page.getByRole('link', { name: 'See who is live' }).waitFor();
});

test('on a phone everything fits and is large enough to touch', async (t) => {
  mock.set('live');
  const page = await watch(t, 'demo', { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true });
  await playing(page);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 320);
  for (const name of ['media-control-bar media-play-button', 'media-mute-button', 'media-live-button', 'media-rendition-menu-button', 'media-fullscreen-button', '#unmute']) {
    await page.locator(name).waitFor();
    const box = await page.locator(name).boundingBox();
    assert.ok(box !== null && box.height >= 40 && box.width >= 40, `${name}: ${JSON.stringify(box)}`);
    assert.ok(box.x >= 0 && box.x + box.width <= 320, `${name} is outside: ${JSON.stringify(box)}`);
  }
});

test('the page of who is live lists the stream and tells how to stream when there is none', async (t) => {
  mock.set('live');
  const { page, seen } = await open(browser);
  t.after(() => page.context().close());
  await page.goto(mock.url);
  const card = page.getByRole('link', { name: /demo/ });
  await card.waitFor();
  assert.equal(await card.getAttribute('href'), '/watch/demo');
  mock.set('offline');
  await page.reload();
  await page.getByRole('heading', { name: 'Nobody is live' }).waitFor();
  assert.equal(await page.getByLabel('Server').inputValue(), 'rtmp://127.0.0.1:1935/live');
  assert.deepEqual(seen.cspViolations, []);
  assert.deepEqual(seen.errors, []);
});
