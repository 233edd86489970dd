/**
 * What a newcomer does with a recording, in a real Chromium against a real server:
 *
 *   node web/test/tour.mjs URL-OF-THE-SERVER STREAM KEY
 *
 * Rewinds while it is live, cuts a clip, sees it end, replays it, downloads it, gives it a title and deletes it. The stream must be
 * live for some 20 s when this begins, and end within a minute of the clip. Prints one JSON line; exit code 0 when all of it went well.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { open, report } from './browser.mjs';

const [base, stream, key] = process.argv.slice(2);
const told = { chunks: 0, again: 0, title: null };
const stats = (page) => page.evaluate(() => window.weir.stats());
const when = (page, wish, argument, timeout = 30_000) => page.waitForFunction(wish, argument, { timeout });
const playing = (page) => when(page, () => window.weir?.stats().playing && window.weir.stats().totalFrames > 15);

/** Hashes of all media that the page was given, by path: what has one name must have one content. */
function hashes(page, kept) {
  page.on('response', async (response) => {
    const { pathname } = new URL(response.url());
    if (!/\.m4s$/.test(pathname) || response.status() !== 200) return;
    const body = await response.body().catch(() => null);
    if (body === null) return;
    const hash = createHash('sha256').update(body).digest('hex');
    const before = kept.get(pathname);
    if (before === undefined) kept.set(pathname, hash);
    else told.again += 1;
    assert.equal(hash, before ?? hash, `${pathname} has changed`);
    told.chunks = kept.size;
  });
}

/** Whether the time line shows a picture of its own over this share of it. */
async function preview(page, share) {
  const line = page.getByRole('slider', { name: 'Time line' });
  const box = await line.boundingBox();
  const shown = page.locator('#preview-picture');
  await page.mouse.move(box.x + box.width * share, box.y + box.height / 2);
  // A busy machine puts pictures off, and the page asks again.
  await shown.waitFor({ timeout: 90_000 });
  const sheet = await shown.evaluate((element) => /url\("(.+)"\)/.exec(getComputedStyle(element).backgroundImage)?.[1]);
  const size = await page.evaluate(async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
  }, sheet);
  assert.ok(size[0] === 800 && size[1] % 90 === 0 && size[1] > 0, `${sheet}: ${size}`);
  await shot(page, `preview-${share}`);
  await page.mouse.move(0, 0);
}

/** A picture of the page, for people, where SHOTS names a folder. */
async function shot(page, name) {
  if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/${name}.png` });
}

async function tour(page, seen) {
  hashes(page, new Map());
  await page.goto(base);
  await page.locator('.card-picture img').waitFor();
  await shot(page, 'home');
  await page.goto(`${base}/watch/${stream}`);
  await playing(page);

  // Back to the start, and to live again with one button.
  const line = page.getByRole('slider', { name: 'Time line' });
  await line.waitFor();
  await preview(page, 0.1);
  await line.focus();
  await page.keyboard.press('Home');
  await when(page, () => window.weir.stats().whole && window.weir.stats().playing && window.weir.stats().time < 8);
  await when(page, () => window.weir.stats().time > 2);
  await page.locator('media-live-button').click();
  await when(page, () => !window.weir.stats().whole && window.weir.stats().playing && window.weir.stats().behind < 8);

  // The key as it stands in OBS makes the owner, who may cut a clip.
  await page.getByRole('button', { name: 'Manage' }).click();
  const manage = page.getByRole('dialog', { name: `Manage ${stream}` });
  await manage.getByLabel('Stream key or admin token').fill(key);
  await page.keyboard.press('Enter');
  await manage.getByText('You are the owner.').waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('button', { name: 'Clip the last 30 s' }).click();
  const made = page.getByRole('dialog', { name: 'Your clip' });
  const clip = await made.getByLabel('Link').inputValue();
  await page.keyboard.press('Escape');

  // It ends, and is there at once among those that are past.
  await when(page, () => window.weir.stats().phase === 'ended' || window.weir.stats().phase === 'offline', null, 90_000);
  const past = page.locator(`a[href^="/watch/${stream}/"]`).first();
  await past.waitFor({ timeout: 20_000 });
  await past.click();
  await playing(page);
  await preview(page, 0.6);
  const { end } = await stats(page);
  assert.ok(end > 20, `the recording lasts ${end} s`);
  const recording = page.url();

  const menu = page.locator('summary', { hasText: 'Download' });
  await menu.click();
  const [file] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: /source.*MP4/ }).click()]);
  const bytes = await readFile(await file.path());
  assert.equal(bytes.subarray(4, 8).toString(), 'ftyp');

  await page.goto(clip);
  await playing(page);

  await page.goto(recording);
  await playing(page);
  await page.getByRole('button', { name: 'Manage' }).click();
  await manage.getByLabel('Title').fill('A tour');
  await manage.getByRole('button', { name: 'Save' }).click();
  await page.locator('#name', { hasText: 'A tour' }).waitFor();
  told.title = await page.locator('#name').textContent();
  await manage.getByRole('button', { name: 'Delete the recording' }).click();
  await page.getByRole('dialog', { name: 'Delete “A tour”?' }).getByRole('button', { name: 'Delete for ever' }).click();
  await page.getByRole('heading', { name: 'This recording was deleted' }).waitFor();
  assert.deepEqual(seen.cspViolations, []);
}

await report(told, async (browser) => {
  const { page, seen } = await open(browser, { acceptDownloads: true });
  await tour(page, seen).catch(async (error) => {
    if (process.env.SHOT) await page.screenshot({ path: process.env.SHOT });
    throw error;
  });
});
