/**
 * Watches a stream in a real Chromium and tells how it went, for tests:
 *
 *   node web/test/browser.mjs play --url http://127.0.0.1:8080/watch/x --seconds 30 [--switch 480p] [--shot FILE.png]
 *        [--start-within 60] [--progress] [--plain]
 *   node web/test/browser.mjs stay --url http://127.0.0.1:8080/chat/x --seconds 30
 *
 * The second opens a page and leaves it alone. Prints one JSON line on standard output. Exit code 0 when it played, 1 when it did not, 2 when it was called wrongly.
 * `--progress` writes the page's own numbers to standard error once a second, one JSON line each, for a caller that
 * does something to the server meanwhile. `--start-within` is the time a first picture may take (seconds). `--plain` plays
 * whole chunks, as a viewer who has switched low latency off.
 */
import { chromium } from 'playwright-core';
import { parseArgs } from 'node:util';

/** Until the chosen quality must be on screen: what is buffered of the old one is played out first. */
const SWITCH_WITHIN_MS = 30_000;
const SAMPLE_MS = 200;

export const LAUNCH = {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
};

/** Opens a page whose console errors and policy violations are collected. */
export async function open(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const seen = { errors: [], cspViolations: [] };
  const note = (text) => {
    const list = /Content Security Policy/i.test(text) ? seen.cspViolations : seen.errors;
    if (!list.includes(text)) list.push(text);
  };
  page.on('console', (message) => {
    if (message.type() === 'error') note(`${message.text()} ${message.location().url}`.trim());
  });
  page.on('pageerror', (error) => seen.errors.push(String(error)));
  return { page, seen };
}

/**
 * Runs something in a Chromium, for tests: prints what it has `told` as one JSON line, with `reason` if it failed, and ends the
 * process with 0 or 1.
 */
export async function report(told, run) {
  const browser = await chromium.launch(LAUNCH);
  let reason = null;
  try {
    await run(browser);
  } catch (error) {
    reason = String(error);
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify({ ok: reason === null, reason, ...told }));
  process.exit(reason === null ? 0 : 1);
}

/** Opens a page, says so on standard error, and counts after some time what stands in its chat. */
async function stay({ url, seconds }) {
  await report({}, async (browser) => {
    const { page } = await open(browser, { viewport: { width: 420, height: 800 } });
    await page.goto(url);
    await page.locator('#chat:not([hidden])').waitFor();
    process.stderr.write('open\n');
    await sleep(seconds * 1_000);
  });
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const read = (page) => page.evaluate(() => window.weir?.stats() ?? null);

async function play({ url, seconds, quality, shot, startWithin, progress, plain }) {
  const browser = await chromium.launch(LAUNCH);
  const result = {
    ok: false, reason: null, timeToFirstFrameMs: null, playedSeconds: 0, stalls: 0, stallMs: 0, waitingEvents: 0,
    framesDecoded: 0, dropped: 0, switch: null, heights: [], levels: [], phases: [], latency: null, behind: null, buffer: null,
    fatalErrors: 0, restarts: 0, playerErrors: [], consoleErrors: [], cspViolations: [],
  };
  try {
    const { page, seen } = await open(browser);
    if (plain) await page.addInitScript(() => localStorage.setItem('weir.low-latency', 'off'));
    result.consoleErrors = seen.errors;
    result.cspViolations = seen.cspViolations;
    const openedMs = Date.now();
    let last = null;
    let told = 0;
    const sample = async () => {
      const now = await read(page);
      if (now === null) return null;
      last = now;
      if (now.height > 0 && result.heights.at(-1) !== now.height) result.heights.push(now.height);
      if (result.phases.at(-1) !== now.phase) result.phases.push(now.phase);
      if (progress && Date.now() - told >= 1_000) {
        told = Date.now();
        process.stderr.write(`${JSON.stringify({ atMs: told - openedMs, ...now, errors: undefined })}\n`);
      }
      return now;
    };
    const fail = (reason) => {
      result.reason ??= reason;
    };

    await page.goto(url, { waitUntil: 'domcontentloaded' });
    // A frame callback is the browser's own word for "a picture is on screen".
    const firstFrame = page.evaluate(
      () => new Promise((resolve) => document.querySelector('video').requestVideoFrameCallback(() => resolve(performance.now()))),
    );
    const startBy = openedMs + startWithin * 1_000;
    result.timeToFirstFrameMs = await Promise.race([
      firstFrame.then(Math.round),
      (async () => {
        while (Date.now() < startBy) {
          await sample();
          await sleep(SAMPLE_MS);
        }
        return null;
      })(),
    ]).catch(() => null);
    if (result.timeToFirstFrameMs === null) {
      fail('no picture in time');
    } else {
      const begunMs = Date.now();
      const begin = await sample();
      const untilMs = begunMs + seconds * 1_000;
      while (Date.now() < untilMs) {
        const now = await sample();
        if (quality !== null && result.switch === null && Date.now() - begunMs > seconds * 300) {
          result.switch = await choose(page, quality, now);
        }
        if (result.switch !== null) follow(result.switch, now);
        await sleep(SAMPLE_MS);
      }
      result.playedSeconds = Math.round((last.position - begin.position) * 10) / 10;
      if (result.playedSeconds < seconds * 0.5) fail(`played ${result.playedSeconds} s in ${seconds} s`);
      if (result.switch !== null) {
        delete result.switch.atMs;
        delete result.switch.shownAtMs;
        if (result.switch.afterMs === null) fail(`${quality} never came on screen`);
        else if (result.switch.afterMs > SWITCH_WITHIN_MS) fail(`${quality} came after ${result.switch.afterMs} ms`);
      }
    }
    if (shot !== null) await page.screenshot({ path: shot });
    if (last !== null) {
      Object.assign(result, {
        stalls: last.stalls, stallMs: last.stallMs, waitingEvents: last.waitingEvents, framesDecoded: last.totalFrames, dropped: last.droppedFrames,
        levels: last.levels, latency: last.latency, behind: last.behind, buffer: last.buffer,
        fatalErrors: last.fatalErrors, restarts: last.restarts, playerErrors: last.errors,
      });
    }
    if (result.cspViolations.length > 0) fail('the content security policy was violated');
    result.ok = result.reason === null;
  } catch (error) {
    result.reason = String(error);
  } finally {
    await browser.close();
  }
  return result;
}

const shows = (now, id) => now !== null && now.levels[now.currentLevel]?.id === id && now.height === now.levels[now.currentLevel].height;

/** Keeps the numbers of a switch: `during` is from the choice to two seconds after the new picture came, `after` the rest. */
function follow(change, now) {
  if (now === null) return;
  if (change.shownAtMs === null && shows(now, change.id)) {
    change.shownAtMs = Date.now();
    change.afterMs = change.shownAtMs - change.atMs;
  }
  const during = change.shownAtMs === null || Date.now() - change.shownAtMs <= 2_000;
  if (during) {
    change.droppedDuring = now.droppedFrames - change.droppedBefore;
    change.stallsDuring = now.stalls - change.stallsBefore;
  }
  change.droppedAfter = now.droppedFrames - change.droppedBefore - change.droppedDuring;
  change.stallsAfter = now.stalls - change.stallsBefore - change.stallsDuring;
}

/** Chooses a quality as a viewer does, with the keyboard through the menu. */
async function choose(page, quality, before) {
  const level = before.levels.find(({ id, height }) => id === quality || `${height}p` === quality);
  if (level === undefined) throw new Error(`no quality ${quality} among ${before.levels.map(({ id }) => id).join(', ')}`);
  const button = page.locator('media-rendition-menu-button');
  await button.focus();
  await page.keyboard.press('Enter');
  const item = page.locator(`media-rendition-menu media-chrome-menu-item[value="${level.id}"]`);
  await item.waitFor({ state: 'visible' });
  await item.focus();
  await page.keyboard.press('Enter');
  return {
    id: level.id, atMs: Date.now(), shownAtMs: null, afterMs: null,
    droppedBefore: before.droppedFrames, droppedDuring: 0, droppedAfter: 0,
    stallsBefore: before.stalls, stallsDuring: 0, stallsAfter: 0,
  };
}

if (process.argv[1] !== undefined && import.meta.url.endsWith(process.argv[1].split('/').at(-1))) {
  let result;
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        url: { type: 'string' }, seconds: { type: 'string', default: '30' }, switch: { type: 'string' }, shot: { type: 'string' },
        'start-within': { type: 'string', default: '60' }, progress: { type: 'boolean', default: false },
        plain: { type: 'boolean', default: false },
      },
    });
    if (positionals[0] === 'stay') await stay({ url: values.url, seconds: Number(values.seconds) });
    if (positionals[0] !== 'play' || values.url === undefined) throw new Error('usage: browser.mjs play --url URL [--seconds N] [--switch 480p] [--shot FILE]');
    result = await play({
      url: values.url, seconds: Number(values.seconds), quality: values.switch ?? null, shot: values.shot ?? null,
      startWithin: Number(values['start-within']), progress: values.progress, plain: values.plain,
    });
  } catch (error) {
    console.error(String(error));
    process.exit(2);
  }
  console.log(JSON.stringify(result));
  process.exit(result.ok ? 0 : 1);
}
