import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.mjs';

const { StallMeter } = await load('src/player/stall.ts');

/** Feeds one moment every 50 ms; `position` tells where the playhead is then. */
function feed(meter, fromMs, toMs, position, mayRest = false) {
  for (let nowMs = fromMs; nowMs < toMs; nowMs += 50) meter.handle({ nowMs, position: position(nowMs), mayRest });
}

test('a moving playhead has no stalls', () => {
  const meter = new StallMeter();
  feed(meter, 0, 10_000, (ms) => ms / 1000);
  assert.equal(meter.count, 0);
  assert.equal(meter.played, true);
});

test('a halt is one stall, as long as it lasts, and ends', () => {
  const meter = new StallMeter();
  feed(meter, 0, 1_000, (ms) => ms / 1000);
  feed(meter, 1_000, 2_000, () => 0.95);
  assert.equal(meter.stalled, true);
  feed(meter, 2_000, 3_000, (ms) => ms / 1000);
  assert.equal(meter.stalled, false);
  assert.equal(meter.count, 1);
  assert.equal(meter.stalls[0].atMs, 950);
  assert.equal(meter.stalls[0].durationMs, 1_000);
});

test('200 ms are not a stall, 250 ms are', () => {
  for (const [halt, stalls] of [[200, 0], [250, 1]]) {
    const meter = new StallMeter();
    feed(meter, 0, 1_000, (ms) => ms / 1000);
    feed(meter, 1_000, 950 + halt + 50, () => 0.95);
    feed(meter, 2_000, 2_500, (ms) => ms / 1000);
    assert.equal(meter.count, stalls, `${halt} ms`);
  }
});

test('pauses, seeks and the time before the first picture are not stalls', () => {
  const meter = new StallMeter();
  feed(meter, 0, 5_000, () => 0);
  assert.equal(meter.count, 0);
  feed(meter, 5_000, 6_000, (ms) => ms / 1000);
  feed(meter, 6_000, 9_000, () => 5.95, true);
  feed(meter, 9_000, 9_150, () => 5.95);
  feed(meter, 9_150, 10_000, (ms) => ms / 1000);
  assert.equal(meter.count, 0);
});

test('the list of stalls is bounded, their count and time are not', () => {
  const meter = new StallMeter();
  for (let i = 0; i < 150; i += 1) {
    feed(meter, i * 1_000, i * 1_000 + 500, (ms) => ms / 1000);
    feed(meter, i * 1_000 + 500, i * 1_000 + 1_000, () => i + 0.45);
  }
  assert.equal(meter.count, 150);
  assert.equal(meter.stalls.length, 100);
  // Each from the last move to the reading before the next.
  assert.equal(meter.totalMs, 150 * meter.stalls[0].durationMs);
});
