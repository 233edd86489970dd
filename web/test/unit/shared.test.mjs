import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.mjs';

const { backoffMs } = await load('src/shared/backoff.ts');
const { bitrate, quality, seconds, since, watching } = await load('src/shared/format.ts');
const { byViewers } = await load('src/home/order.ts');
const { clockOffset, readStream } = await load('src/shared/api.ts');

test('waits double up to the longest, a quarter either way', () => {
  const backoff = { firstMs: 500, longestMs: 8_000 };
  assert.deepEqual([0, 1, 2, 3, 4, 5, 1_000].map((n) => backoffMs(backoff, n, 0.5)), [500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
  assert.equal(backoffMs(backoff, 1, 0), 750);
  assert.equal(backoffMs(backoff, 1, 1), 1_250);
});

test('numbers read as people read them', () => {
  assert.equal(seconds(6.04), '6.0 s');
  assert.equal(seconds(null), '–');
  assert.equal(seconds(Number.NaN), '–');
  assert.equal(seconds(-0.2), '0.0 s');
  assert.equal(bitrate(250), '250 kb/s');
  assert.equal(bitrate(2_850), '2.9 Mb/s');
  assert.equal(quality(1280, 720), '720p');
  assert.equal(quality(720, 1280), '720p');
  assert.equal(quality(0, 0), 'Sound only');
  assert.equal(since(0, 59_000), 'just now');
  assert.equal(since(0, 12 * 60_000), '12 min');
  assert.equal(since(0, 185 * 60_000), '3 h 05 min');
  assert.equal(since(60_000, 0), 'just now');
  assert.equal(watching(1234), '1,234 watching');
  assert.equal(watching(0), '0 watching');
  assert.equal(watching(null), '');
});

test('a clock that differs by less than a Date header resolves counts as right', () => {
  const now = Date.parse('2026-11-21T09:00:10.900Z');
  assert.equal(clockOffset('Sat, 21 Nov 2026 09:00:10 GMT', now), 0);
  assert.equal(clockOffset('Sat, 21 Nov 2026 09:01:10 GMT', now), 59_600);
  assert.equal(clockOffset(null, now), 0);
  assert.equal(clockOffset('nonsense', now), 0);
});

test('a stream is read as the server writes it', () => {
  const body = {
    id: 'alice', state: 'live', broadcast: '01h', started: '2026-11-21T09:00:00.000Z', mode: 'follow', playback: 'ticket',
    renditions: [{ name: 'source', codec: 'avc1.64001f', width: 1280, height: 720, fps: 30, kbps: 3000 }],
    warnings: [{ code: 'long_keyframe_interval', text: 'a', fix: 'b' }], shed: ['720p'], poster: '/hls/alice/01h/poster.jpg', viewers: 12,
    now: { title: 'A song', artist: null },
  };
  assert.deepEqual(readStream(body), body);
});

test('what is missing is empty, and what is no stream is refused', () => {
  assert.deepEqual(readStream({ id: 'a', state: 'offline' }), {
    id: 'a', state: 'offline', broadcast: null, started: null, mode: null, playback: 'public', renditions: [], warnings: [], shed: [], poster: null, viewers: null, now: null,
  });
  assert.deepEqual(readStream({ id: 'a', state: 'live', renditions: [null, 3, { name: 1 }], warnings: 'x', shed: [1, 'a'] }).shed, ['a']);
  for (const body of [null, [], 'x', {}, { id: 1, state: 'live' }, { id: 'a', state: 'gone' }]) assert.equal(readStream(body), null);
});

test('the most watched come first, the others stay as the server has them', () => {
  const streams = [['a', null], ['b', 3], ['c', 0], ['d', 12], ['e', null], ['f', 3]].map(([id, viewers]) => ({ id, viewers }));
  assert.equal(byViewers(streams).map(({ id }) => id).join(''), 'dbfcae');
});
