import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventId } from '../mock-audience.mjs';
import { load } from './load.mjs';

const { bestFirst, columns, goOn, haltedPercent, stacked } = await load('src/studio/columns.ts');
const words = await load('src/studio/words.ts');
const { Events } = await load('src/studio/live.ts');
const { readAudience, readIngest, readNow } = await load('src/studio/api.ts');

const points = (...at) => at.map((s, i) => ({ atMs: s * 1000, n: i + 1 }));
const n = ({ n }) => n;

test('points become columns, and where steps are missing the lines break', () => {
  assert.deepEqual(columns([], 60, [n]), { times: [], lines: [[]] });
  assert.deepEqual(columns(points(0, 60, 120), 60, [n, () => null]), { times: [0, 60, 120], lines: [[1, 2, 3], [null, null, null]] });
  assert.deepEqual(columns(points(0, 60, 240, 300), 60, [n]), { times: [0, 60, 90, 240, 300], lines: [[1, 2, null, 3, 4]] });
  // Steps of a second and a half are late, not missing.
  assert.deepEqual(columns(points(0, 89), 60, [n]).times, [0, 89]);
});

test('a line goes on to now, unless it ended long before', () => {
  const past = columns(points(0, 60), 60, [n]);
  assert.deepEqual(goOn(past, 130_000, 60, [7]), { times: [0, 60, 130], lines: [[1, 2, 7]] });
  assert.deepEqual(goOn(past, 400_000, 60, [7]), { times: [0, 60, 230, 400], lines: [[1, 2, null, 7]] });
  assert.deepEqual(goOn(past, 30_000, 60, [7]), past);
  assert.deepEqual(goOn({ times: [], lines: [[]] }, 5_000, 60, [7]), { times: [5], lines: [[7]] });
});

test('lines are piled up from the last one, and a gap of all stays one', () => {
  assert.deepEqual(stacked({ times: [0, 1, 2], lines: [[5, null, null], [3, null, 2], [1, null, 1]] }), { times: [0, 1, 2], lines: [[9, null, 3], [4, null, 3], [1, null, 1]] });
  assert.deepEqual(stacked({ times: [], lines: [] }), { times: [], lines: [] });
});

test('qualities are named the best first, each once', () => {
  assert.deepEqual(bestFirst(['480p', 'audio', '1080p', 'source', '480p', '720p60', 'odd']), ['source', '1080p', '720p60', '480p', 'odd', 'audio']);
});

test('halts are told as a part of the time watched', () => {
  assert.equal(haltedPercent({ stallMs: 600, minutes: 1 }), 1);
  assert.equal(haltedPercent({ stallMs: 1e9, minutes: 1 }), 100);
  for (const [stallMs, minutes] of [[null, 1], [1, null], [1, 0]]) assert.equal(haltedPercent({ stallMs, minutes }), null);
});

test('numbers of the studio read as people read them', () => {
  assert.deepEqual([null, 0, 1234.4].map(words.number), ['–', '0', '1,234']);
  assert.deepEqual([null, 0, 0.04, 4.25, 12.4].map(words.mean), ['–', '0', '0', '4.3', '12']);
  assert.deepEqual([null, 0, 0.00001, 0.0042, 0.034, 0.5].map(words.percent), ['–', '0 %', '< 0.01 %', '0.42 %', '3.4 %', '50 %']);
  assert.deepEqual([null, 0.4, 38, 750, 72_240].map(words.watched), ['–', '0 min', '38 min', '12.5 h', '1,204 h']);
  assert.deepEqual([null, 640, 12_340, 400_000].map(words.time), ['–', '0.64 s', '12.3 s', '400 s']);
  assert.deepEqual([null, 'avc1.640028', 'mp4a.40.2', 'vp09.00'].map(words.codec), [null, 'H.264', 'AAC', 'vp09.00']);
  assert.equal(words.fileName('demo', '2026-11-20T18:05:30.000Z', 'csv'), 'demo-20261120-1805-audience.csv');
});

test('the id of a chat message tells when it was', () => {
  const at = Date.UTC(2026, 10, 21, 9, 0, 0, 123);
  assert.equal(words.eventMs(eventId(at, 77)), at);
  assert.equal(words.eventMs('0000000000000'), Date.UTC(2025, 0, 1));
  for (const id of ['', '000', 'ilou000000000', '0000000000000 ']) assert.equal(words.eventMs(id), null, id);
});

test('messages of the last minute are counted, and reckoned where there are too many to count', () => {
  const now = 1_000_000;
  const every = (ms, count) => Array.from({ length: count }, (_, i) => now - i * ms);
  assert.equal(words.chatRate([], true, now), 0);
  assert.equal(words.chatRate(every(10_000, 20), true, now), 6);
  assert.equal(words.chatRate(every(10_000, 20), false, now), 6);
  assert.equal(words.chatRate(every(100, 101), false, now), 606);
  assert.equal(words.chatRate(every(100, 101), true, now), 101);
});

test('events are read however they are cut in pieces', () => {
  const text = ': hello\r\nevent: now\ndata: {"a":1}\n\nevent: other\ndata: x\ndata:y\r\n\r\ndata: {"b":2}\n\nevent: now\ndata: cut';
  const expected = [{ type: 'now', data: '{"a":1}' }, { type: 'other', data: 'x\ny' }, { type: 'message', data: '{"b":2}' }];
  assert.deepEqual(new Events().take(text), expected);
  for (const size of [1, 2, 3, 7]) {
    const events = new Events();
    const heard = [];
    for (let i = 0; i < text.length; i += size) heard.push(...events.take(text.slice(i, i + size)));
    assert.deepEqual(heard, expected, `pieces of ${size}`);
  }
});

test('what the server tells is read with what is missing as unknown, and nonsense as nothing', () => {
  const at = '2026-11-21T09:00:00.000Z';
  const audience = readAudience({
    stream: 'demo', broadcast: null, now: null, total: null, step_s: 60, marks: [{ at, label: 'a' }, { at: 'x', label: 'b' }],
    series: [{ at: '2026-11-21T09:01:00Z', viewers: 2 }, { at, viewers: null, renditions: { '720p': 1.5, x: null } }, { viewers: 3 }, null],
  });
  assert.deepEqual(audience.series.map(({ atMs, viewers, renditions }) => [atMs, viewers, renditions]), [[Date.parse(at), null, { '720p': 1.5 }], [Date.parse(at) + 60_000, 2, {}]]);
  assert.deepEqual(audience.marks, [{ atMs: Date.parse(at), label: 'a' }]);
  assert.deepEqual([audience.now, audience.total, audience.broadcast], [null, null, null]);
  assert.equal(readAudience({ series: 3 }), null);
  assert.deepEqual(readNow({ at }), { atMs: Date.parse(at), viewers: 0, paused: 0, estimate: null, renditions: [], kbps: null, latencyMs: null, stalled: 0 });
  assert.equal(readNow({ viewers: 3 }), null);
  assert.equal(readIngest({}), null);
  const ingest = readIngest({ state: 'live', warnings: [{ code: 'a', text: 'b' }, {}], history: [{ at, kbps: 1, fps: null }, { kbps: 2 }] });
  assert.deepEqual([ingest.kbps, ingest.warnings, ingest.history], [null, [{ code: 'a', text: 'b', fix: '' }], [{ atMs: Date.parse(at), kbps: 1, fps: null }]]);
});
