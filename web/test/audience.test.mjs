/** What the pages tell of viewers and to whom: reports of play, counts, the list by pages; in a real Chromium against the mock server. */
import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { open } from './browser.mjs';
import { browser, mock, phase, playing, watch } from './page.mjs';

afterEach(() => {
  Object.assign(mock.watched, { reports: [], answer: { status: 204, body: null }, viewers: null, others: [] });
});

const until = async (what, wanted, timeoutMs = 15_000) => {
  for (const end = Date.now() + timeoutMs; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const found = wanted();
    if (found) return found;
    if (Date.now() > end) assert.fail(`${what} did not come`);
  }
};
const lines = () => mock.watched.reports.flatMap((report) => report.lines);
const value = (line, key) => new RegExp(`(?:^|,)${key}=([^,]*)`).exec(line)?.[1];
const told = (event, state) => lines().find((line) => value(line, 'e') === event && value(line, 'sta') === state);

test('play is reported when it begins, at intervals, and when the page goes; a reload goes on with the session', async (t) => {
  mock.set('live');
  mock.watched.answer = { status: 200, body: { interval_s: 10 } };
  const page = await watch(t);
  await playing(page);
  const first = await until('the first report', () => told('ps', 'p'));
  const sid = value(first, 'sid');
  assert.match(sid, /^"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"$/);
  assert.deepEqual(['cid', 'sf', 'v', 'weir-rendition'].map((key) => value(first, key)), ['"demo"', 'h', '2', '"source"']);
  assert.ok(Number(value(first, 'msd')) > 0 && Number(value(first, 'msd')) < 20_000, first);
  assert.deepEqual(mock.watched.reports[0].path, '/api/v1/cmcd');
  assert.equal(mock.watched.reports[0].type, 'application/cmcd');
  const interval = await until('the report of an interval', () => told('t', 'p'), 14_000);
  assert.equal(value(interval, 'msd'), undefined);
  assert.match(interval, /^bl=\(\d+\),br=\(\d+\),/);
  const numbers = () => lines().filter((line) => value(line, 'sid') === sid).map((line) => Number(value(line, 'sn')));
  await page.reload();
  await until('the end of the first page', () => told('ps', 'q'));
  await playing(page);
  const before = numbers().length;
  await until('a report of the second page', () => numbers().length > before);
  assert.deepEqual(numbers(), numbers().map((_, i) => i));
  assert.equal(lines().filter((line) => value(line, 'msd') !== undefined).length, 1);
});

test('a stream that is not live is not reported, and what halts is', async (t) => {
  mock.set('offline');
  const page = await watch(t);
  await phase(page, 'waiting');
  // The page of another test may have told of its end until now.
  mock.watched.reports = [];
  await page.waitForResponse(/api\/v1\/streams\/demo$/);
  assert.deepEqual(mock.watched.reports, []);
  mock.set('live');
  await playing(page);
  await until('the first report', () => told('ps', 'p'));
  mock.set('away');
  const halted = await until('the halt', () => told('ps', 'r'), 30_000);
  assert.match(halted, /(^|,)bs,bsa=\(1\),bsda=\(\d+\)/);
  mock.set('live');
  await page.waitForFunction(() => window.weir.stats().playing, null, { timeout: 20_000 });
  await page.locator('media-control-bar media-play-button').click();
  await until('the pause', () => told('ps', 'a'));
});

test('a viewer with a ticket reports under it, a recording under its own name, and 410 ends the reports', async (t) => {
  mock.set('live');
  mock.known.fill(1);
  t.after(() => (mock.known.past = []));
  mock.watched.answer = { status: 410, body: { status: 410 } };
  const page = await watch(t, 'demo/r001', { ticket: 'a.b.c' });
  const answered = page.waitForResponse(/\/api\/v1\/cmcd$/);
  await playing(page);
  const mine = () => mock.watched.reports.filter((report) => report.lines[0].includes('cid="demo/r001"'));
  const { path, lines: [line] } = await until('the report', () => mine()[0]);
  assert.equal(path, '/t/a.b.c/api/v1/cmcd');
  assert.deepEqual([value(line, 'cid'), value(line, 'st'), value(line, 'ltc')], ['"demo/r001"', 'v', undefined]);
  await answered;
  await page.evaluate(() => new Promise(requestAnimationFrame));
  await page.goto('about:blank');
  assert.equal(mine().length, 1);
});

test('how many watch stands beside the title while it is live, and not where it is not told', async (t) => {
  mock.set('live');
  mock.watched.viewers = 1234;
  const page = await watch(t);
  const shown = page.locator('#viewers');
  await shown.filter({ hasText: '1,234 watching' }).waitFor();
  mock.watched.viewers = 1;
  await shown.filter({ hasText: /^1 watching$/ }).waitFor();
  mock.watched.viewers = null;
  await shown.waitFor({ state: 'hidden' });
});

test('the list shows who is watched most first, and more when it is asked for', async (t) => {
  mock.set('live');
  mock.watched.viewers = 30;
  mock.watched.others = Array.from({ length: 60 }, (_, i) => ({ id: `s${String(i).padStart(2, '0')}`, viewers: i === 0 ? 2_000 : 30 - i / 2 }));
  // Five dozen moving pictures are a lot to draw without a graphics card.
  const { page, seen } = await open(browser, { reducedMotion: 'reduce' });
  t.after(() => page.context().close());
  await page.goto(mock.url);
  await page.getByText('48 or more streams').waitFor();
  const names = () => page.locator('.card-name').allTextContents();
  assert.deepEqual((await names()).slice(0, 3), ['s00', 'demo', 's01']);
  assert.equal(await page.locator('.card', { hasText: 's00' }).locator('.card-viewers').textContent(), '2,000 watching');
  await page.getByRole('button', { name: 'Show more' }).click();
  await page.getByText('61 streams').waitFor();
  assert.equal((await names()).length, 61);
  await page.getByRole('button', { name: 'Show more' }).waitFor({ state: 'hidden' });
  assert.equal(await page.evaluate(() => document.activeElement.textContent.includes('s47')), true);
  assert.deepEqual(seen.errors, []);
  assert.deepEqual(seen.cspViolations, []);
});
