/** The studio in a real Chromium against the mock server. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { beforeEach, test } from 'node:test';
import { open } from './browser.mjs';
import { ADMIN, OWNER } from './mock-recordings.mjs';
import { browser, mock, playing, watch } from './page.mjs';

beforeEach(() => {
  Object.assign(mock.known, { past: [], calls: [], failLists: null });
  Object.assign(mock.watched, { viewers: 1_200, marks: [], gap: [14, 18], empty: false, events: true, warnings: [], chat: null, others: [] });
  mock.watched.revoked.clear();
  mock.set('offline');
  mock.set('live');
});

/** Opens the studio of `demo`; with a key it is opened with that. What it asks for is in `page.asked`. */
async function studio(t, { key = null, ...options } = {}) {
  const { page, seen } = await open(browser, options);
  t.after(async () => {
    await page.context().close();
    assert.deepEqual(seen.cspViolations, []);
  });
  page.asked = [];
  page.seen = seen;
  page.on('request', (request) => page.asked.push({ url: request.url().replace(mock.url, ''), authorization: request.headers()['authorization'] ?? null }));
  await page.goto(`${mock.url}/studio/demo`);
  if (key !== null) {
    await page.getByLabel('Stream key or admin token').fill(key);
    await page.keyboard.press('Enter');
    await page.locator('.plot .uplot').first().waitFor();
  }
  return page;
}

const tile = (page, name) => page.locator('.tile', { has: page.locator('dt', { hasText: name }) });
const figure = (page, name) => page.locator('.chart', { has: page.getByRole('heading', { name, exact: true }) });
/** Until the chart's canvas has so many pixels of other than the ground's colour. */
const drawn = (page, name, least = 400) =>
  page.waitForFunction(
    ([title, least]) => {
      const chart = [...document.querySelectorAll('.chart')].find((one) => one.querySelector('h3').textContent === title);
      const canvas = chart?.querySelector('canvas');
      if (canvas == null || canvas.width === 0) return false;
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let seen = 0;
      for (let i = 3; i < data.length; i += 4) if (data[i] > 60) seen += 1;
      return seen >= least;
    },
    [name, least],
    { timeout: 10_000 },
  );

test('nothing is shown without a key, a wrong one is told, and a good one is kept until it is forgotten', async (t) => {
  const page = await studio(t);
  const field = page.getByLabel('Stream key or admin token');
  await field.waitFor();
  assert.ok(page.asked.every(({ url }) => !url.includes('/audience') && !url.includes('/ingest')));
  await field.fill('alice?key=x');
  await page.keyboard.press('Enter');
  await page.getByText('This key is for alice, not for demo.').waitFor();
  await field.fill('wrong');
  await page.keyboard.press('Enter');
  await page.getByText('This key does not open this stream.').waitFor();
  await field.fill(`demo?key=${OWNER}`);
  await page.keyboard.press('Enter');
  await tile(page, 'Watching now').filter({ hasText: '1,200' }).waitFor();
  await page.reload();
  await tile(page, 'Watching now').filter({ hasText: '1,200' }).waitFor();
  const asked = page.asked.filter(({ url }) => /\/(audience|ingest)/.test(url));
  assert.ok(asked.length > 3 && asked.every(({ authorization, url }) => authorization === `Bearer ${OWNER}` && !url.includes(OWNER)));
  await page.getByRole('button', { name: 'Forget the key' }).click();
  await field.waitFor();
  assert.equal(await page.evaluate(() => JSON.stringify({ ...sessionStorage })), '{}');
  await page.reload();
  await field.waitFor();
});

test('a key that is withdrawn closes the studio', async (t) => {
  const page = await studio(t, { key: ADMIN });
  mock.watched.revoked.add(ADMIN);
  await page.getByLabel('Stream key or admin token').waitFor({ timeout: 20_000 });
  await page.getByText('The key is not good any more.').waitFor();
  assert.equal(await page.locator('#office').isVisible(), false);
});

test('numbers, charts and tables are drawn, and follow what happens', async (t) => {
  mock.watched.chat = Array.from({ length: 30 }, (_, i) => Date.now() - i * 1_000);
  mock.watched.warnings = [{ code: 'x', text: 'Keyframes come every 8.3 s.', fix: 'In OBS set Keyframe Interval to 2 s.' }];
  const page = await studio(t, { key: OWNER });
  await page.locator('#badge', { hasText: 'Live' }).waitFor();
  for (const name of ['Viewers', 'Qualities', 'Halted, of the time watched', 'Start-up and latency', 'Bitrate played, Mb/s', 'Bitrate of the last 2 minutes']) await drawn(page, name);
  const values = { Peak: /\d/, Average: /\d/, People: /visits/, 'Time watched': / h/, Halted: / %/, 'First picture': /0\.64 s.*1\.85 s/, 'Behind live': /2\.35 s/, Bitrate: /3\.2 Mb\/s/, Chat: /30messages a minute/ };
  for (const [name, value] of Object.entries(values)) await tile(page, name).filter({ hasText: value }).waitFor();
  await page.locator('.ingest', { hasText: 'One thing to change' }).waitFor();
  await page.getByText('In OBS set Keyframe Interval to 2 s.').waitFor();
  for (const text of ['6.0 Mb/s, sound 160 kb/s', '1920 × 1080', 'H.264, AAC', 'every 2 s', 'node-2']) await page.locator('.ingest').getByText(text).waitFor();
  assert.deepEqual(await page.locator('.table tbody th').allTextContents(), ['source', '480p', 'audio']);
  await page.locator('.readings', { hasText: 'fragLoadError' }).waitFor();
  mock.watched.viewers = 47;
  await tile(page, 'Watching now').filter({ hasText: '47' }).waitFor();
  await figure(page, 'Viewers').locator('.readout', { hasText: '47 watching' }).waitFor();
  mock.set('away');
  await page.locator('#badge', { hasText: 'Away' }).waitFor();
  await page.locator('.ingest', { hasText: 'The encoder is away' }).waitFor();
  assert.deepEqual(page.seen.errors, []);
});

test('the range is chosen, and the whole broadcast or a past one is shown', async (t) => {
  mock.known.fill(2, (i) => ({ title: `Show ${i + 1}`, chunks: 1_500 }));
  const page = await studio(t, { key: OWNER });
  await page.getByRole('button', { name: '30 min', pressed: true }).waitFor();
  const next = (pattern) => page.waitForRequest((request) => pattern.test(request.url()));
  const [asked] = await Promise.all([next(/streams\/demo\/audience\?/), page.getByRole('button', { name: '3 h' }).click()]);
  const query = new URL(asked.url()).searchParams;
  assert.equal(Number(query.get('to')) - Number(query.get('from')), 3 * 3_600_000);
  await page.getByRole('button', { name: '3 h', pressed: true }).waitFor();
  const live = (await (await fetch(`${mock.url}/api/v1/streams/demo`)).json()).broadcast;
  await Promise.all([next(new RegExp(`broadcasts/${live}/audience$`)), page.getByRole('button', { name: 'Whole broadcast' }).click()]);
  await page.getByRole('button', { name: 'Charts of Show 2' }).click();
  await page.getByText('Shown: Show 2').waitFor();
  await page.locator('.charts[aria-busy=false]').waitFor();
  await drawn(page, 'Viewers', 2_000);
  // What is told of now does not get into it.
  const before = await figure(page, 'Viewers').locator('.readout').textContent();
  mock.watched.viewers = 55;
  await tile(page, 'Watching now').filter({ hasText: '55' }).waitFor();
  assert.equal(await figure(page, 'Viewers').locator('.readout').textContent(), before);
  await page.getByRole('button', { name: 'Back to now' }).click();
  await page.getByRole('button', { name: '30 min', pressed: true }).waitFor();
  await figure(page, 'Viewers').locator('.readout', { hasText: '55 watching' }).waitFor();
});

test('a chart is read with the arrow keys, and says what it shows', async (t) => {
  const page = await studio(t, { key: OWNER });
  await drawn(page, 'Viewers');
  const viewers = figure(page, 'Viewers');
  const plot = viewers.getByRole('img');
  assert.match(await plot.getAttribute('aria-label'), /^Viewers\. Watching: at most [\d,]+ watching, at .+\. The arrow keys read it out\.$/);
  await plot.focus();
  await page.keyboard.press('Home');
  const first = await viewers.locator('.readout').textContent();
  await page.keyboard.press('ArrowRight');
  await page.waitForFunction((before) => document.querySelector('.readout').textContent !== before, first);
  assert.equal(await viewers.locator('.readout').getAttribute('aria-live'), 'polite');
  await page.keyboard.press('Escape');
  await viewers.locator('.readout', { hasText: '1,200 watching' }).waitFor();
});

test('a server that goes is told with the numbers left as they were, and nothing moves; it comes back by itself', async (t) => {
  const page = await studio(t, { key: OWNER });
  await drawn(page, 'Viewers');
  await tile(page, 'Watching now').filter({ hasText: '1,200' }).waitFor();
  await tile(page, 'Peak').filter({ hasText: 'at ' }).waitFor();
  const places = () => page.locator('.tile, .panel, .past-shows').evaluateAll((all) => all.map((one) => Math.round(one.getBoundingClientRect().top)));
  const before = await places();
  mock.set('down');
  await page.getByText(/^The server does not answer\. Trying again until it does\. The numbers are those of /).waitFor();
  assert.equal(await page.locator('.shelf').getAttribute('data-stale'), 'yes');
  await tile(page, 'Watching now').filter({ hasText: '1,200' }).waitFor();
  assert.deepEqual(await places(), before);
  mock.watched.viewers = 31;
  mock.set('live');
  await tile(page, 'Watching now').filter({ hasText: '31' }).waitFor({ timeout: 20_000 });
  await page.locator('.shelf[data-stale=no]').waitFor({ timeout: 20_000 });
  await page.locator('.away-line').waitFor({ state: 'hidden' });
});

test('a server that tells nothing by itself is asked', async (t) => {
  mock.watched.events = false;
  const page = await studio(t, { key: OWNER });
  await tile(page, 'Watching now').filter({ hasText: '1,200' }).waitFor();
  mock.watched.viewers = 15;
  await tile(page, 'Watching now').filter({ hasText: '15' }).waitFor({ timeout: 10_000 });
  assert.equal(await page.locator('.away-line').isVisible(), false);
});

test('a moment is marked, with a label or without', async (t) => {
  const page = await studio(t, { key: OWNER });
  const label = page.getByLabel('Label of the mark');
  await label.fill('  Goal! ');
  await page.keyboard.press('Enter');
  await page.getByText(/^Marked at .+: Goal!$/).waitFor();
  assert.equal(await label.inputValue(), '');
  await page.locator('.marks li', { hasText: 'Goal!' }).waitFor();
  await page.getByRole('button', { name: 'Mark', exact: true }).click();
  await page.locator('.marks li').nth(1).waitFor();
  assert.deepEqual(mock.watched.marks.map((mark) => mark.label), ['Goal!', 'Mark']);
  // The server tells of them as well: each is there once.
  await page.getByRole('button', { name: '3 h' }).click();
  await page.locator('.charts[aria-busy=false]').waitFor();
  assert.equal(await page.locator('.marks li').count(), 2);
});

test('past broadcasts have their numbers, and those as files', async (t) => {
  mock.known.fill(12, (i) => ({ title: i === 0 ? 'The first' : '', chunks: 1_500 }));
  const page = await studio(t, { key: OWNER, acceptDownloads: true });
  const first = page.locator('.show', { hasText: 'The first' });
  await first.locator('.show-numbers[data-known=yes]').waitFor();
  assert.match(await first.locator('.show-numbers').innerText(), /People\s+[\d,]+\s+Peak\s+[\d,]+\s+Average\s+[\d,]+\s+Watched\s+[\d.,]+ h\s+Halted\s+[\d.]+ %\s+First picture\s+0\.64 s \/ 1\.85 s/);
  const [csv] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Numbers as CSV of The first' }).click()]);
  assert.equal(csv.suggestedFilename(), 'demo-20261120-1805-audience.csv');
  assert.match(await readFile(await csv.path(), 'utf8'), /^at,viewers,peak\n2026-11-20T18:/);
  const [json] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', { name: 'Numbers as JSON of The first' }).click()]);
  assert.ok(JSON.parse(await readFile(await json.path(), 'utf8')).series.length > 10);
  // The live one is not past; the first page has ten.
  assert.equal(await page.locator('.show').count(), 9);
  await page.getByRole('button', { name: 'More' }).click();
  await page.locator('.show').nth(11).waitFor();
  await page.getByRole('button', { name: 'More' }).waitFor({ state: 'hidden' });
  mock.known.past = [];
  await page.getByRole('button', { name: 'Numbers as CSV of The first' }).click();
  await first.getByText(/^It cannot be downloaded: /).waitFor();
});

test('what has just ended is the first of the past', async (t) => {
  const page = await studio(t, { key: OWNER });
  await page.getByText('There are none yet.').waitFor();
  mock.set('offline');
  await page.locator('.show').waitFor({ timeout: 15_000 });
  await page.locator('#badge', { hasText: 'Offline' }).waitFor();
  assert.equal(await page.locator('.show').count(), 1);
});

test('before anything was watched the page says so', async (t) => {
  mock.watched.empty = true;
  mock.set('offline');
  mock.known.past = [];
  const page = await studio(t);
  await page.getByLabel('Stream key or admin token').fill(OWNER);
  await page.keyboard.press('Enter');
  await page.getByText('The numbers begin when you go live.').waitFor();
  await page.getByText('Nobody watched in this time.').first().waitFor();
  await page.locator('.ingest', { hasText: 'Nothing is sent' }).waitFor();
  await page.getByRole('button', { name: 'Whole broadcast' }).and(page.locator(':disabled')).waitFor();
  assert.equal(await tile(page, 'Chat').isVisible(), false);
  mock.watched.empty = false;
  mock.set('live');
  await page.locator('#badge', { hasText: 'Live' }).waitFor({ timeout: 10_000 });
});

test('everything fits on a narrow phone and is large enough to touch', async (t) => {
  mock.known.fill(2, () => ({ title: 'A-title-that-does-not-end-'.repeat(4) }));
  mock.watched.marks.push({ at: new Date().toISOString(), label: 'x'.repeat(80) });
  const page = await studio(t, { key: OWNER, viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
  await drawn(page, 'Viewers');
  await page.locator('.show').nth(1).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  const small = await page.locator('button, .input').evaluateAll((all) => all.filter((one) => one.offsetParent !== null && one.getBoundingClientRect().height < 44).map((one) => one.textContent));
  assert.deepEqual(small, []);
});

test('the watch page leads to the studio and loads nothing of it', async (t) => {
  const page = await watch(t);
  await playing(page);
  await page.getByRole('button', { name: 'Manage' }).click();
  const manage = page.getByRole('dialog', { name: 'Manage demo' });
  await manage.getByLabel('Stream key or admin token').fill(OWNER);
  await page.keyboard.press('Enter');
  const link = manage.getByRole('link', { name: /^Studio/ });
  await link.waitFor();
  assert.deepEqual(page.asked.filter((path) => /studio|office|uplot/i.test(path)), []);
  await link.click();
  await page.locator('.plot .uplot').first().waitFor();
});
