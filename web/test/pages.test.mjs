/** The built pages in a real Chromium against the mock server: every state, and every way back. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open } from './browser.mjs';
import { browser, heading, mock, moves, phase, playing, stats, watch } from './page.mjs';

/** Until the test ends the stream is played with tickets only. */
async function needTickets(t) {
  mock.set('live');
  await fetch(`${mock.url}/mock?playback=ticket`, { method: 'POST' });
  t.after(() => fetch(`${mock.url}/mock?playback=public`, { method: 'POST' }));
}

/** A ticket the mock server refuses with this code until the test ends; null is a good one. */
function admit(t, ticket, code) {
  mock.admit(ticket, code);
  t.after(() => mock.admit(ticket, null));
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

test('the stream is asked for while the player is on its way, and the picture waits for no controls', async (t) => {
  mock.set('live');
  const { page } = await open(browser);
  t.after(() => page.context().close());
  const release = {};
  for (const name of ['player', 'chrome']) {
    const released = new Promise((resolve) => (release[name] = resolve));
    await page.route(`**/assets/${name}-*.js`, (route) => released.then(() => route.continue()));
  }
  const answered = page.waitForResponse(/api\/v1/);
  await page.goto(`${mock.url}/watch/demo`, { waitUntil: 'commit' });
  await answered;
  release.player();
  await page.locator('#watch[data-picture=yes] video').waitFor();
  assert.equal(await page.evaluate(() => customElements.get('media-controller') === undefined), true);
  release.chrome();
  await page.locator('media-control-bar media-play-button').waitFor();
});

test('a start in parts waits neither for the ticks of hls.js nor for a playlist to be renewed', async (t) => {
  mock.set('offline');
  await fetch(`${mock.url}/mock?parts=yes&state=live`, { method: 'POST' });
  t.after(() => fetch(`${mock.url}/mock?parts=no&state=offline`, { method: 'POST' }));
  const { page } = await open(browser);
  t.after(() => page.context().close());
  await page.addInitScript(() => {
    const every = window.setInterval;
    window.setInterval = (run, ms) => (ms === 100 ? 0 : every(run, ms));
  });
  const answered = new Set();
  await page.route(/\.m3u8/, (route) => {
    const { pathname } = new URL(route.request().url());
    if (answered.has(pathname)) return;
    answered.add(pathname);
    return route.continue();
  });
  await page.goto(`${mock.url}/watch/demo`);
  await page.locator('#watch[data-picture=yes] video').waitFor({ timeout: 10_000 });
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

test('a stream that needs a ticket says so where there is none, and asks for no media', async (t) => {
  await needTickets(t);
  const page = await watch(t);
  await phase(page, 'refused');
  await heading(page, 'A ticket is needed to watch');
  assert.match(await page.getByRole('status').textContent(), /^A ticket is needed to watch\. Open the link/);
  // Two more looks at the API: time enough for a player to load.
  await page.waitForResponse(/api\/v1/);
  await page.waitForResponse(/api\/v1/);
  assert.deepEqual(page.media, []);
  mock.set('offline');
  await page.locator('#started', { hasText: /^$/ }).waitFor({ state: 'attached' });
  assert.equal((await stats(page)).phase, 'refused');
});

test('a ticket plays, every media request carries it, and nothing else keeps or shows it', async (t) => {
  await needTickets(t);
  const ticket = 'eyJhbGciOiJIUzI1NiJ9.eyJzdHJlYW0iOiJkZW1vIn0.c2ln-_~';
  const page = await watch(t, 'demo', { ticket });
  await playing(page);
  await moves(page, 4);
  assert.ok(page.media.length > 5);
  assert.deepEqual(page.media.filter((path) => !path.startsWith(`/t/${ticket}/hls/demo/`)), []);
  await page.locator('#skip').focus();
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'video');
  assert.equal(await page.evaluate(() => location.hash), `#ticket=${ticket}`);
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.documentElement.outerHTML]));
  assert.ok(!kept.includes(ticket));
});

test('an open stream plays with a ticket too', async (t) => {
  mock.set('live');
  const page = await watch(t, 'demo', { ticket: 'a.b.c' });
  await playing(page);
  assert.ok(page.media.every((path) => path.startsWith('/t/a.b.c/')));
});

test('every refusal has its own words, and is not asked about again and again', async (t) => {
  await needTickets(t);
  const codes = ['ticket_missing', 'ticket_invalid', 'ticket_expired', 'ticket_early', 'ticket_other_stream', 'ticket_other_address', 'ticket_revoked', 'of_tomorrow'];
  const said = await Promise.all(codes.map(async (code) => {
    admit(t, `t.${code}`, code);
    const page = await watch(t, 'demo', { ticket: `t.${code}` });
    await phase(page, 'refused');
    await page.locator('#curtain').waitFor();
    const words = await page.getByRole('status').textContent();
    await page.waitForResponse(/api\/v1/);
    assert.equal(page.media.length, 2, `${code}: ${page.media.join(' ')}`);
    assert.equal((await stats(page)).restarts, 0);
    return words;
  }));
  assert.equal(new Set(said).size, codes.length, said.join('\n'));
  assert.match(said[codes.indexOf('ticket_expired')], /expired/);
});

test('a good ticket put in the place of a bad one plays without a reload', async (t) => {
  await needTickets(t);
  admit(t, 'bad', 'ticket_invalid');
  const page = await watch(t, 'demo', { ticket: 'bad' });
  await heading(page, 'This ticket is not valid');
  await page.evaluate(() => (window.mark = 'same page'));
  await page.evaluate(() => (location.hash = '#ticket=good'));
  await playing(page);
  await phase(page, 'live');
  assert.equal(await page.evaluate(() => window.mark), 'same page');
  // No ticket, a broken one: what plays goes on.
  await page.evaluate(() => (location.hash = '#video'));
  await page.evaluate(() => (location.hash = '#ticket=%3Cb%3E'));
  await moves(page, 2);
  assert.ok(page.media.slice(2).every((path) => path.startsWith('/t/good/')));
});

test('a ticket that expires during the show: what is buffered is played out, then the words come', async (t) => {
  await needTickets(t);
  const page = await watch(t, 'demo', { ticket: 'short' });
  await playing(page);
  await moves(page, 2);
  const from = await stats(page);
  admit(t, 'short', 'ticket_expired');
  const asked = page.media.length;
  await page.waitForFunction((to) => window.weir.stats().position > to, from.position + 3);
  assert.equal((await stats(page)).phase, 'live');
  await phase(page, 'refused');
  await heading(page, 'Your ticket has expired');
  const to = await stats(page);
  assert.ok(to.buffer < 0.5, `${to.buffer} s left`);
  assert.equal(to.restarts, from.restarts, to.errors.join('; '));
  // The playlists of picture and sound, a chunk on its way, and the question why.
  assert.ok(page.media.length - asked <= 6, page.media.slice(asked).join(' '));
  await page.evaluate(() => (location.hash = '#ticket=long'));
  await playing(page);
  await moves(page, 2);
});

test('a ticket that is early becomes valid, and play starts by itself', async (t) => {
  await needTickets(t);
  admit(t, 'early', 'ticket_early');
  const page = await watch(t, 'demo', { ticket: 'early' });
  await heading(page, 'Your ticket is not valid yet');
  mock.admit('early', null);
  // As if the half minute had passed after which it is asked again.
  await page.clock.install();
  await page.clock.fastForward(60_000);
  await phase(page, 'live');
  await playing(page);
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
