/** Rewinding, past broadcasts, recordings, clips and managing them: the built pages in a real Chromium against the mock server. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open } from './browser.mjs';
import { OWNER } from './mock-recordings.mjs';
import { browser, heading, mock, moves, phase, playing, stats, watch } from './page.mjs';

/** A broadcast that has gone on for this many chunks of two seconds; everything else as at the start. */
function goLive(chunks = 40) {
  Object.assign(mock.known, { past: [], mayClip: false, poster: false, skewMs: 0, failLists: null, calls: [] });
  mock.known.clips.clear();
  mock.known.deleted.clear();
  mock.set('offline');
  mock.set('live');
  mock.pass(chunks - 4);
}

const slider = (page) => page.getByRole('slider', { name: 'Time line' });
const whole = (page, wanted = true) => page.waitForFunction((w) => window.weir.stats().whole === w, wanted, { timeout: 10_000 });
/** Until the playhead is in these bounds on the time line and moves. */
const at = (page, from, to) =>
  page.waitForFunction(
    ([a, b]) => {
      const { time, playing } = window.weir.stats();
      return playing && time >= a && time <= b;
    },
    [from, to],
    { timeout: 15_000 },
  );
const lit = (page) => page.locator('media-live-button[mediatimeislive]').waitFor();
const unlit = (page) => page.locator('media-live-button:not([mediatimeislive])').waitFor();
/** Notes from now on whether the picture went or was covered. */
const watchCover = (page) =>
  page.evaluate(() => {
    window.covers = [];
    const watch = document.getElementById('watch');
    const note = () => window.covers.push(`${watch.dataset.covered} ${watch.dataset.picture}`);
    new MutationObserver(note).observe(watch, { attributes: true });
    note();
  });
const covers = (page) => page.evaluate(() => [...new Set(window.covers)]);
const seekOnLine = async (page, share) => {
  const box = await slider(page).boundingBox();
  await page.mouse.click(box.x + 7 + share * (box.width - 14), box.y + box.height / 2);
};

test('a viewer goes back to the very start and, with one button, to live again; the picture never goes', async (t) => {
  goLive(45);
  const page = await watch(t);
  await playing(page);
  await slider(page).waitFor();
  assert.ok(page.asked.every((path) => !path.includes('from=start')), 'live is joined without the whole');
  await lit(page);
  const live = await stats(page);
  assert.ok(live.end > 80 && live.end < 110, `${live.end}`);
  assert.match(await slider(page).getAttribute('aria-valuetext'), /^1 minute \d+ seconds?, live$/);

  await watchCover(page);
  await slider(page).focus();
  await page.keyboard.press('Home');
  await whole(page);
  await at(page, 0, 6);
  await unlit(page);
  assert.match(await slider(page).getAttribute('aria-valuetext'), /^\d seconds?, 1 minute .*behind live$/);
  assert.match(await page.locator('#lag').textContent(), /^−1:\d\d$/);
  await page.locator('#behind', { hasText: /^1:\d\d$/ }).waitFor();
  await moves(page, 4);
  assert.equal((await stats(page)).phase, 'live');

  await page.locator('media-live-button').click();
  await whole(page, false);
  await playing(page);
  await lit(page);
  await page.waitForFunction(() => window.weir.stats().behind < 12, null, { timeout: 10_000 });
  await moves(page, 3);
  assert.deepEqual(await covers(page), ['no yes']);
  const { restarts, stalls, errors } = await stats(page);
  assert.deepEqual({ restarts, stalls }, { restarts: 0, stalls: 0 }, errors.join('; '));
});

test('low latency is there again after a look back, and is joined as before', async (t) => {
  mock.set('offline');
  await fetch(`${mock.url}/mock?parts=yes`, { method: 'POST' });
  t.after(() => fetch(`${mock.url}/mock?parts=no&state=offline`, { method: 'POST' }));
  goLive(40);
  const page = await watch(t);
  await playing(page);
  const near = () => page.waitForFunction(() => window.weir.stats().latency !== null && window.weir.stats().latency < 1.5, null, { timeout: 15_000 });
  await near();
  await slider(page).focus();
  await page.keyboard.press('Home');
  await whole(page);
  await at(page, 0, 6);
  await moves(page, 3);
  await page.keyboard.press('End');
  await whole(page, false);
  await near();
  await moves(page, 3);
  assert.equal((await stats(page)).restarts, 0);
});

test('a server that goes while a viewer is far behind costs nothing but the wait', async (t) => {
  goLive(50);
  const page = await watch(t);
  await playing(page);
  await seekOnLine(page, 0);
  await whole(page);
  await at(page, 0, 6);
  const { end } = await stats(page);
  mock.set('down');
  await seekOnLine(page, 0.9);
  await phase(page, 'unreachable', 60_000);
  await heading(page, 'The server does not answer');
  mock.set('live');
  await phase(page, 'live', 60_000);
  await at(page, end * 0.9 - 4, end * 0.9 + 6);
  assert.equal((await stats(page)).whole, true);
});

test('a click on the line goes there, and short ways stay in the live window', async (t) => {
  goLive(40);
  const page = await watch(t);
  await playing(page);
  await moves(page, 4);
  await page.locator('#video').focus();
  await page.keyboard.press('ArrowLeft');
  await unlit(page);
  assert.equal((await stats(page)).whole, false);
  const before = await stats(page);
  await page.keyboard.press('ArrowRight');
  await lit(page);
  assert.ok((await stats(page)).position > before.position);

  await seekOnLine(page, 0.25);
  await whole(page);
  const { end } = await stats(page);
  await at(page, end * 0.25 - 4, end * 0.25 + 6);
  await seekOnLine(page, 0.6);
  await at(page, end * 0.6 - 4, end * 0.6 + 6);
  assert.equal((await stats(page)).whole, true);
  await page.keyboard.press('End');
  await whole(page, false);
  await playing(page);
  await lit(page);
});

test('keys pressed one after the other add up, over the end of the live window too', async (t) => {
  goLive(45);
  const page = await watch(t);
  await playing(page);
  await page.locator('#video').focus();
  const { time } = await stats(page);
  for (let i = 0; i < 5; i += 1) await page.keyboard.press('j');
  await whole(page);
  await at(page, time - 52, time - 44);
  await page.keyboard.press('l');
  await at(page, time - 42, time - 32);
});

test('where the API is wrong about the start, the viewer still gets to the moment that was meant', async (t) => {
  goLive(40);
  mock.known.skewMs = 7_000;
  const page = await watch(t);
  await playing(page);
  await slider(page).focus();
  const { time, end } = await stats(page);
  assert.ok(end > 85, 'by the API seven seconds more');
  for (let i = 0; i < 3; i += 1) await page.keyboard.press('PageDown');
  await whole(page);
  await at(page, time - 30 - 7 - 2, time - 30 - 7 + 5);
});

test('quality and mute are kept, and the lower buttons work, before the edge too', async (t) => {
  goLive(40);
  const page = await watch(t);
  await playing(page);
  await page.getByRole('button', { name: /^Quality/ }).click();
  await page.getByRole('menuitemradio', { name: '480p', exact: true }).click();
  await page.waitForFunction(() => window.weir.stats().height === 480, null, { timeout: 20_000 });
  await seekOnLine(page, 0.1);
  await whole(page);
  await at(page, 2, 20);
  await page.waitForFunction(() => window.weir.stats().height === 480, null, { timeout: 20_000 });
  assert.equal((await stats(page)).automatic, false);
  assert.equal((await stats(page)).muted, true);
  const low = page.getByRole('button', { name: 'Low latency' });
  await low.click();
  assert.equal((await stats(page)).whole, true, 'the switch is for live');
  await low.click();
  await page.locator('media-control-bar media-play-button').click();
  await page.waitForFunction(() => window.weir.stats().paused);
  await seekOnLine(page, 0.3);
  await page.waitForFunction(() => window.weir.stats().time > 15);
  assert.equal((await stats(page)).paused, true, 'who paused stays paused');
  await page.locator('media-live-button').click();
  await whole(page, false);
  await playing(page);
  assert.equal((await stats(page)).height, 480);
});

test('who paused for longer than the window goes on where it was', async (t) => {
  goLive(35);
  const page = await watch(t);
  await playing(page);
  await moves(page, 2);
  await page.locator('media-control-bar media-play-button').click();
  await page.waitForFunction(() => window.weir.stats().paused);
  const { time } = await stats(page);
  await page.waitForFunction((from) => window.weir.stats().end - from > 22, time, { timeout: 40_000 });
  await page.locator('media-control-bar media-play-button').click();
  await whole(page);
  await at(page, time - 2, time + 6);
});

test('a broadcast that ends while a viewer is behind is played to its end, and then it is said', async (t) => {
  goLive(16);
  const page = await watch(t);
  await playing(page);
  await slider(page).focus();
  await page.keyboard.press('Home');
  await whole(page);
  await at(page, 0, 6);
  mock.set('offline');
  await phase(page, 'recorded');
  await page.locator('media-live-button').waitFor({ state: 'hidden' });
  await page.locator('#badge', { hasText: 'Ended' }).waitFor();
  await page.keyboard.press('End');
  await phase(page, 'ended', 40_000);
  await heading(page, 'The broadcast has ended');
});

test('past broadcasts are listed page by page, the one on screen is not among them, and nothing jumps', async (t) => {
  goLive(20);
  mock.known.fill(23, (i) => ({ title: i === 1 ? 'A walk by the river' : '', poster: i === 1 }));
  const page = await watch(t);
  await page.evaluate(() => {
    window.shift = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) window.shift += entry.hadRecentInput ? 0 : entry.value;
    }).observe({ type: 'layout-shift', buffered: true });
  });
  await playing(page);
  const list = page.getByRole('region', { name: 'Past broadcasts' });
  await list.getByRole('link', { name: /A walk by the river/ }).waitFor();
  // 19 beside the live one.
  assert.equal(await list.getByRole('listitem').count(), 19);
  const link = list.getByRole('link', { name: /A walk by the river/ });
  assert.equal(await link.getAttribute('href'), '/watch/demo/r022');
  assert.match(await link.textContent(), /0:42/);
  await link.locator('img').waitFor();
  await list.getByRole('button', { name: 'More' }).focus();
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelectorAll('#past-list > li').length === 23);
  await list.getByRole('button', { name: 'More' }).waitFor({ state: 'hidden' });
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('href')), '/watch/demo/r004');
  assert.deepEqual([...new Set(page.asked.filter((path) => path.includes('/broadcasts')))], [
    'GET /api/v1/streams/demo/broadcasts?limit=20',
    'GET /api/v1/streams/demo/broadcasts?limit=20&before=r005',
  ]);
  assert.ok((await page.evaluate(() => window.shift)) < 0.02, `${await page.evaluate(() => window.shift)}`);
});

test('offline, the past is the main thing; without one the page is quiet; a list that fails says so', async (t) => {
  goLive(10);
  mock.set('offline');
  mock.set('missing');
  mock.known.fill(0);
  const quiet = await watch(t);
  await phase(quiet, 'unknown');
  while (!quiet.asked.some((path) => path.includes('/broadcasts'))) await quiet.waitForTimeout(50);
  assert.equal(await quiet.locator('#past').isVisible(), false);

  mock.set('offline');
  mock.known.failLists = 503;
  mock.known.fill(2);
  const page = await watch(t);
  await phase(page, 'waiting');
  await page.getByText('Past broadcasts cannot be listed now.').waitFor();
  mock.known.failLists = null;
  await page.getByRole('button', { name: 'Try again' }).click();
  await page.locator('#past-list > li').nth(2).waitFor();
  assert.equal(await page.locator('#signal').isVisible(), false);
  assert.equal(await page.getByText('cannot be listed').isVisible(), false);
});

test('a recording plays from where its address says, to its end, and again', async (t) => {
  goLive();
  mock.known.fill(3, (i) => ({ title: i === 0 ? 'The second act' : '', note: 'With guests.\nThanks to all.', chunks: 12, gaps: { count: 2, seconds: 14 } }));
  const page = await watch(t, 'demo/r003?t=9');
  await playing(page);
  const { time, end, phase: now, behind } = await stats(page);
  assert.ok(time >= 9 && time < 13, `${time}`);
  assert.deepEqual({ end: Math.round(end), now, behind }, { end: 24, now: 'recorded', behind: null });
  await heading(page, 'The second act');
  await page.getByText('With guests.').waitFor();
  await page.getByText('0:14 is missing, in 2 places: the encoder was away.').waitFor();
  assert.match(await page.locator('.about-line').textContent(), /Recording\s+demo\s+November 20, 2026.* · 0:24/);
  assert.equal(await page.locator('#lag').textContent(), '0:24');
  assert.equal(await page.locator('media-live-button').isVisible(), false);
  assert.match(await page.title(), /^The second act · Weir$/);
  await page.locator('#video').focus();
  await page.keyboard.press('End');
  await page.waitForFunction(() => window.weir.stats().motion === 'ended', null, { timeout: 10_000 });
  assert.equal((await stats(page)).phase, 'recorded');
  await page.locator('media-control-bar media-play-button').click();
  await at(page, 0, 5);
  await page.keyboard.press('ArrowRight');
  await at(page, 5, 12);
  assert.equal((await stats(page)).restarts, 0);
});

test('a broadcast that is still live is played from its start under its own address, with a way to live', async (t) => {
  goLive(30);
  const { broadcast } = await (await fetch(`${mock.url}/api/v1/streams/demo`)).json();
  const page = await watch(t, `demo/${broadcast}`);
  await playing(page);
  await at(page, 0, 6);
  assert.equal((await stats(page)).whole, true);
  await page.getByText('still going on').waitFor();
  await page.locator('media-live-button').click();
  await whole(page, false);
  await playing(page);
  await lit(page);
  assert.ok(page.asked.some((path) => path.startsWith(`GET /hls/demo/${broadcast}/index.m3u8`) && !path.includes('?')));
  await slider(page).focus();
  await page.keyboard.press('Home');
  await whole(page);
  await at(page, 0, 6);
  mock.set('offline');
  await phase(page, 'recorded');
  await page.locator('#badge', { hasText: 'Recording' }).waitFor();
});

test('what was deleted and what never was have words and a way out', async (t) => {
  goLive();
  mock.known.fill(2);
  mock.known.deleted.add('r001');
  const gone = await watch(t, 'demo/r001');
  await heading(gone, 'This recording was deleted');
  assert.equal(await gone.getByRole('link', { name: 'Go to demo' }).getAttribute('href'), '/watch/demo');
  assert.deepEqual(gone.media, []);
  const never = await watch(t, 'demo/r999');
  await heading(never, 'No such recording');
  const clip = await watch(t, 'demo/r002?clip=c99');
  await heading(clip, 'No such clip');
  const other = await watch(t, 'other/r002');
  await heading(other, 'No such recording');
});

test('the last 30 s become a clip with one click, and another when it is changed', async (t) => {
  goLive(40);
  mock.known.mayClip = true;
  const page = await watch(t, 'demo', { permissions: ['clipboard-read', 'clipboard-write'] });
  await playing(page);
  await page.getByRole('button', { name: 'Clip the last 30 s' }).click();
  const dialog = page.getByRole('dialog', { name: 'Your clip' });
  await dialog.waitFor();
  const [made] = mock.known.calls;
  assert.equal(made.method, 'POST');
  assert.match(made.path, /^\/api\/v1\/broadcasts\/b\d+\/clips$/);
  assert.equal(made.key, null);
  assert.equal(Date.parse(made.body.to) - Date.parse(made.body.from), 30_000);
  const playedMs = Date.now() - Date.parse(made.body.to);
  assert.ok(playedMs > 2_000 && playedMs < 20_000, `${playedMs}`);

  await dialog.getByText('0:30 long').waitFor();
  assert.equal(await dialog.getByRole('button', { name: 'Save changes' }).isDisabled(), true);
  await dialog.getByLabel('Title').fill('The moment');
  await dialog.getByRole('button', { name: 'Start one second later' }).click();
  await dialog.getByRole('button', { name: 'Start one second later' }).click();
  await dialog.getByRole('button', { name: 'End one second earlier' }).click();
  await dialog.getByText('0:27 long').waitFor();
  await dialog.getByRole('button', { name: 'Save changes' }).click();
  await dialog.getByText('Saved. The link is a new one.', { exact: false }).or(dialog.getByText('The first clip stays', { exact: false })).waitFor();
  const [, again, removed] = mock.known.calls;
  assert.equal(again.body.title, 'The moment');
  assert.equal(Math.round((again.body.to - again.body.from) * 1000), 27_000);
  assert.equal(removed.method, 'DELETE');
  const link = await dialog.getByLabel('Link').inputValue();
  assert.match(link, /\/watch\/demo\/b\d+\?clip=c2$/);
  await dialog.getByRole('button', { name: 'Copy link' }).click();
  await dialog.getByRole('button', { name: 'Copied' }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), link);
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Clip the last 30 s');

  // Before the edge the page knows the seconds themselves.
  await slider(page).focus();
  await page.keyboard.press('Home');
  await whole(page);
  await at(page, 2, 20);
  await page.getByRole('button', { name: 'Clip the last 30 s' }).click();
  await dialog.waitFor();
  const { body } = mock.known.calls.at(-1);
  assert.equal(body.from, 0);
  assert.ok(body.to > 1 && body.to < 25, `${body.to}`);
});

test('who may not clip has no button for it, and a server that refuses says why', async (t) => {
  goLive();
  const page = await watch(t);
  await playing(page);
  await page.getByRole('button', { name: 'Manage' }).waitFor();
  assert.equal(await page.getByRole('button', { name: /^Clip/ }).isVisible(), false);
  mock.known.mayClip = true;
  const other = await watch(t);
  await playing(other);
  const clip = other.getByRole('button', { name: /^Clip/ });
  await clip.waitFor();
  mock.known.mayClip = false;
  await clip.click();
  await other.getByText('No clip was made: This needs the stream key or the admin token.').waitFor();
});

test('a clip plays its own bounds, ends there, and names the whole', async (t) => {
  goLive();
  mock.known.fill(1, () => ({ title: 'The whole evening' }));
  mock.known.clips.set('c7', { id: 'c7', of: 'r001', title: 'Goal', from: 13, to: 18 });
  const page = await watch(t, 'demo/r001?clip=c7');
  await playing(page);
  const { time, end, position } = await stats(page);
  assert.equal(end, 5);
  assert.ok(time < 4 && Math.abs(position - time - 1) < 0.01, `${position} ${time}`);
  await heading(page, 'Goal');
  const link = page.getByRole('link', { name: 'Watch the whole: The whole evening' });
  assert.equal(await link.getAttribute('href'), '/watch/demo/r001?t=13');
  await page.waitForFunction(() => window.weir.stats().motion === 'ended', null, { timeout: 15_000 });
  const over = await stats(page);
  assert.ok(over.position >= 5.9 && over.position < 6.3, `${over.position}`);
  assert.equal(await page.locator('#position').textContent(), '0:05');
  await page.locator('media-control-bar media-play-button').click();
  await at(page, 0, 3);

  mock.known.deleted.add('r001');
  await page.reload();
  await playing(page);
  await heading(page, 'Goal');
  await page.getByText('the recording was deleted').waitFor();
  assert.equal(await link.isVisible(), false);
  await page.locator('summary', { hasText: 'Download' }).waitFor();
});

test('recordings and clips are downloaded in the quality that is chosen, or it is said why not', async (t) => {
  goLive();
  mock.known.fill(1);
  const page = await watch(t, 'demo/r001');
  await playing(page);
  const menu = page.locator('summary', { hasText: 'Download' });
  await menu.focus();
  await page.keyboard.press('Enter');
  await page.getByRole('link', { name: /^720p source.*MP4, about/ }).waitFor();
  assert.match(await page.locator('.menu-item').last().textContent(), /^Sound only/);
  await page.getByRole('link', { name: /^Sound only/ }).waitFor();
  const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: /^480p/ }).click()]);
  assert.equal(new URL(file.url()).pathname + new URL(file.url()).search, '/hls/demo/r001/index.mp4?rendition=480p');
  await page.getByText('The download has started.').waitFor();
  mock.known.deleted.add('r001');
  await menu.click();
  await page.getByRole('link', { name: /^480p/ }).click();
  await page.getByText('It cannot be downloaded: It was deleted.').waitFor();
});

test('the owner comes in with the key, names the recording, and deletes clips and recording', async (t) => {
  goLive();
  mock.known.fill(2);
  mock.known.clips.set('c1', { id: 'c1', of: 'r002', title: 'First', from: 2, to: 8 });
  mock.known.clips.set('c2', { id: 'c2', of: 'r002', title: 'Second', from: 2, to: 8 });
  const page = await watch(t, 'demo/r002');
  await playing(page);
  await page.getByRole('button', { name: 'Manage' }).click();
  const dialog = page.getByRole('dialog', { name: 'Manage demo' });
  const key = dialog.getByLabel('Stream key or admin token');
  await key.fill('other?key=abc');
  await page.keyboard.press('Enter');
  await dialog.getByText('This key is for other, not for demo.').waitFor();
  await key.fill('wrong');
  await page.keyboard.press('Enter');
  await dialog.getByText('This key does not open this stream.', { exact: false }).waitFor();
  await key.fill(`demo?key=${OWNER}`);
  await page.keyboard.press('Enter');
  await dialog.getByText('You are the owner.').waitFor();
  assert.ok(page.asked.every((path) => !path.includes(OWNER)) && !page.url().includes(OWNER));
  assert.equal(await page.evaluate(() => sessionStorage.getItem('weir.key.demo')), OWNER);

  await dialog.getByLabel('Title').fill('  A good evening ');
  await dialog.getByLabel('Note').fill('With guests.');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.getByText('Saved.', { exact: true }).waitFor();
  assert.deepEqual(mock.known.calls.at(-1), { method: 'PATCH', path: '/api/v1/broadcasts/r002', key: OWNER, body: { title: 'A good evening', note: 'With guests.' } });
  await page.locator('#name', { hasText: 'A good evening' }).waitFor();

  await dialog.getByRole('button', { name: 'Delete Second' }).click();
  await page.getByRole('dialog', { name: 'Delete “Second”?' }).getByRole('button', { name: 'Delete the clip' }).click();
  await dialog.getByText('Second was deleted.').waitFor();
  assert.equal(mock.known.clips.has('c2'), false);

  await dialog.getByRole('button', { name: 'Delete the recording' }).click();
  const sure = page.getByRole('dialog', { name: 'Delete “A good evening”?' });
  await sure.getByText(/the recording of November 20, 2026.*, 0:40 long, 10\.5 MB, in all qualities\. .*cannot be had back\. Its clip stays/).waitFor();
  await sure.getByRole('button', { name: 'Keep it' }).click();
  assert.equal(mock.known.deleted.size, 0);
  await dialog.getByRole('button', { name: 'Delete the recording' }).click();
  await sure.getByRole('button', { name: 'Delete for ever' }).click();
  await dialog.waitFor({ state: 'detached' });
  await phase(page, 'gone');
  await heading(page, 'This recording was deleted');

  // In this tab the owner is known; the key goes when told to.
  await page.goto(`${mock.url}/watch/demo`);
  await page.getByRole('button', { name: /^Clip/ }).waitFor({ timeout: 20_000 });
  await page.getByRole('button', { name: 'Manage' }).click();
  await dialog.getByText('This broadcast').waitFor();
  await dialog.getByText('It can be deleted once it has ended.').waitFor();
  await dialog.getByRole('button', { name: 'Forget the key' }).click();
  assert.equal(await page.evaluate(() => sessionStorage.getItem('weir.key.demo')), null);
  await page.getByRole('button', { name: /^Clip/ }).waitFor({ state: 'hidden' });
});

test('a key that is no longer good is asked for again', async (t) => {
  goLive();
  mock.known.fill(1);
  const page = await watch(t, 'demo/r001');
  await page.evaluate(() => sessionStorage.setItem('weir.key.demo', 'of-yesterday'));
  await page.reload();
  await playing(page);
  await page.waitForFunction(() => sessionStorage.getItem('weir.key.demo') === null);
  await page.getByRole('button', { name: 'Manage' }).click();
  await page.getByLabel('Stream key or admin token').waitFor();
});

test('with a ticket everything of a recording carries it, and the page shows it nowhere', async (t) => {
  goLive();
  mock.known.fill(2, () => ({ poster: true, storyboard: true }));
  await fetch(`${mock.url}/mock?playback=ticket`, { method: 'POST' });
  t.after(() => fetch(`${mock.url}/mock?playback=public`, { method: 'POST' }));
  const none = await watch(t, 'demo/r002');
  await heading(none, 'A ticket is needed to watch');
  assert.deepEqual(none.media, []);

  const ticket = 'eyJh.eyJz.c2ln-_~';
  const page = await watch(t, 'demo/r002', { ticket });
  await playing(page);
  const list = page.getByRole('region', { name: 'Past broadcasts' });
  await list.locator('img').first().waitFor();
  await slider(page).hover();
  await page.locator('#preview-picture').waitFor();
  const asked = page.asked.filter((path) => /\/(hls|api)\//.test(path));
  assert.deepEqual(asked.filter((path) => !path.startsWith(`GET /t/${ticket}/`) && path !== `POST /t/${ticket}/api/v1/cmcd`), []);
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.documentElement.outerHTML]));
  assert.ok(!kept.includes(ticket));
  await list.getByRole('link').last().click();
  await page.waitForURL(`**/watch/demo/r001#ticket=${ticket}`);
  await playing(page);
});

test('over the line a picture shows what is there', async (t) => {
  goLive();
  mock.known.fill(1, () => ({ storyboard: true, chunks: 60 }));
  const page = await watch(t, 'demo/r001');
  await playing(page);
  const box = await slider(page).boundingBox();
  await page.mouse.move(box.x + 7 + 0.5 * (box.width - 14), box.y + box.height / 2);
  await page.locator('#preview-time', { hasText: /^(0:59|1:00)$/ }).waitFor();
  await page.mouse.move(box.x + 8 + 0.5 * (box.width - 14), box.y + box.height / 2);
  await page.waitForFunction(() => document.getElementById('preview-picture').style.backgroundPosition !== '');
  const { backgroundPosition, width } = await page.locator('#preview-picture').evaluate(({ style }) => ({ backgroundPosition: style.backgroundPosition, width: style.width }));
  // The eighth tile: third of the second row.
  assert.deepEqual({ backgroundPosition, width }, { backgroundPosition: '-320px -90px', width: '160px' });
  await page.mouse.move(box.x + 40, box.y - 200);
  await page.locator('#preview').waitFor({ state: 'hidden' });
});

test('on a phone every page fits, and what is to be touched is large enough', async (t) => {
  goLive(40);
  mock.known.fill(3, (i) => ({ title: i === 1 ? 'A title that is rather longer than a small screen is wide, so it has to be broken' : '' }));
  mock.known.mayClip = true;
  const phone = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true };
  for (const name of ['demo', 'demo/r002']) {
    const page = await watch(t, name, phone);
    await playing(page);
    const sound = await page.locator('#unmute').evaluate((button) => getComputedStyle(button).backgroundColor);
    assert.equal(sound, 'rgb(255, 255, 255)', 'the style of the page comes after the base');
    await page.locator('#past-list > li').first().waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
    if (name !== 'demo') {
      await page.locator('summary', { hasText: 'Download' }).click();
      const menu = await page.locator('.menu-list').boundingBox();
      assert.ok(menu.x >= 0 && menu.x + menu.width <= 360, `the menu is outside: ${JSON.stringify(menu)}`);
      await page.keyboard.press('Escape');
    }
    for (const part of ['#scrub', '.actions .button:visible', '.row']) {
      const box = await page.locator(part).first().boundingBox();
      assert.ok(box.height >= 36 && box.width >= 44 && box.x >= 0 && box.x + box.width <= 360, `${part}: ${JSON.stringify(box)}`);
    }
    await page.getByRole('button', { name: /^Clip/ }).click();
    await page.getByRole('dialog').waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  }
});

test('the page of who is live shows posters, and the drawn picture where there is none', async (t) => {
  goLive();
  const { page, seen } = await open(browser);
  t.after(() => page.context().close());
  await page.goto(mock.url);
  const card = page.getByRole('link', { name: /demo/ });
  await card.locator('.art').waitFor();
  assert.equal(await card.locator('img').count(), 0);
  mock.known.poster = true;
  await page.reload();
  await card.locator('img').waitFor();
  assert.match(await card.locator('img').getAttribute('src'), /^\/hls\/demo\/b\d+\/poster\.jpg\?at=\d+$/);
  assert.deepEqual(seen.cspViolations, []);
});
