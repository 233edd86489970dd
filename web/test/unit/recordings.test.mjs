import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.mjs';

const { destination, keyLeadsTo } = await load('src/watch/timeline.ts');
const { readStoryboard } = await load('src/watch/storyboard.ts');
const { readKey } = await load('src/watch/key.ts');
const { placeOf } = await load('src/watch/place.ts');
const { clock, spoken, size } = await load('src/shared/format.ts');
const { lengthOf, readBroadcast, readClip } = await load('src/shared/recordings.ts');
const { ticketed } = await load('src/shared/ticketed.ts');

test('a wish on the time line leads into what is loaded, to the whole, or to the edge', () => {
  const live = { position: 100, end: 102, reach: 86, growing: true };
  assert.deepEqual(destination(95, live, 1), { kind: 'here', by: -5 });
  assert.deepEqual(destination(86, live, 1), { kind: 'here', by: -14 });
  assert.deepEqual(destination(85, live, 1), { kind: 'whole', at: 85 });
  assert.deepEqual(destination(-10, live, 1), { kind: 'whole', at: 0 });
  for (const time of [100, 102, 500]) assert.deepEqual(destination(time, live, 1), { kind: 'edge' }, `${time}`);
  // Six seconds behind is as near as this playlist is played.
  assert.deepEqual(destination(96, live, 6), { kind: 'edge' });
  const ended = { position: 10, end: 102, reach: 0, growing: false };
  assert.deepEqual(destination(102, ended, 6), { kind: 'here', by: 92 });
  assert.deepEqual(destination(999, ended, 6), { kind: 'here', by: 92 });
});

test('keys go five and ten seconds, to the start and to the end', () => {
  const times = { position: 60, end: 90 };
  const to = (key) => keyLeadsTo(key, times);
  assert.deepEqual(['ArrowLeft', 'ArrowRight', 'j', 'l', 'Home', 'End', 'x'].map(to), [55, 65, 50, 70, 0, 90, null]);
});

test('a storyboard is read, with what is no picture left out', () => {
  const text = 'WEBVTT\n\nNOTE made by hand\n\n1\n00:00:00.000 --> 00:00:08.000\nsheet-0.jpg#xywh=0,0,160,90\n\n00:08.000 --> 01:00:16.500\nsheet-0.jpg#xywh=160,0,160,90\n\n00:00:20.000 --> 00:00:24.000\njust words\n\n00:00:30.000 --> 00:00:24.000\na.jpg#xywh=0,0,1,1\n';
  for (const written of [text, text.replaceAll('\n', '\r\n')]) {
    assert.deepEqual(readStoryboard(written), [
      { from: 0, to: 8, sheet: 'sheet-0.jpg', x: 0, y: 0, width: 160, height: 90 },
      { from: 8, to: 3616.5, sheet: 'sheet-0.jpg', x: 160, y: 0, width: 160, height: 90 },
    ]);
  }
  for (const none of ['', 'WEBVTT', '<html>']) assert.deepEqual(readStoryboard(none), []);
});

test('a key is taken as OBS has it, as a secret alone, and not for another stream', () => {
  for (const given of ['demo?key=abc_1', ' demo?key=abc_1\n', 'rtmp://host:1935/live/demo?key=abc_1', 'demo?x=1&key=abc_1', 'abc_1']) {
    assert.deepEqual(readKey(given, 'demo'), { secret: 'abc_1' }, given);
  }
  assert.match(readKey('alice?key=abc', 'demo').wrong, /alice/);
  for (const given of ['', '  ', 'two words', 'kéy']) assert.ok('wrong' in readKey(given, 'demo'), given);
});

test('the address of a page names stream, broadcast, clip and time', () => {
  const place = (path, search = '') => placeOf({ pathname: path, search });
  assert.deepEqual(place('/watch/demo', '?clip=c1&t=5'), { stream: 'demo', broadcast: null, clip: null, at: 5 });
  assert.deepEqual(place('/watch/demo/'), { stream: 'demo', broadcast: null, clip: null, at: null });
  assert.deepEqual(place('/watch/demo/b1', '?t=90.5'), { stream: 'demo', broadcast: 'b1', clip: null, at: 90.5 });
  assert.deepEqual(place('/watch/demo/b1', '?clip=c1'), { stream: 'demo', broadcast: 'b1', clip: 'c1', at: null });
  for (const t of ['-1', 'x', 'Infinity']) assert.equal(place('/watch/demo/b1', `?t=${t}`).at, null);
  assert.equal(place('/watch/%E0%A4%A').stream, '%E0%A4%A');
});

test('times and sizes as people read and hear them', () => {
  assert.deepEqual([0, 7.9, 60, 760, 3753, 36_000].map(clock), ['0:00', '0:07', '1:00', '12:40', '1:02:33', '10:00:00']);
  assert.deepEqual([0, 1, 61, 3753].map(spoken), ['0 seconds', '1 second', '1 minute 1 second', '1 hour 2 minutes 33 seconds']);
  assert.deepEqual([900, 850_000, 1_230_000_000].map(size), ['900 bytes', '850 kB', '1.2 GB']);
});

test('broadcasts and clips are read with what they may lack, and nothing else is', () => {
  const one = readBroadcast({ id: 'b1', stream: 'demo', state: 'ended', started: '2026-11-20T18:05:00Z' });
  assert.deepEqual([one.title, one.duration, one.gaps, one.poster, one.watch], ['', null, null, null, '/watch/demo/b1']);
  for (const body of [null, [], {}, { id: 'b1', stream: 'demo', state: 'lost', started: 'x' }]) assert.equal(readBroadcast(body), null);
  const between = { started: '2026-11-20T18:05:00Z', ended: '2026-11-20T18:06:30Z' };
  assert.deepEqual([lengthOf({ ...between, duration: 88 }), lengthOf({ ...between, duration: null }), lengthOf({ ...between, ended: null, duration: null })], [88, 90, null]);
  const clip = readClip({ id: 'c1', stream: 'demo', broadcast: 'b1', from: 1.5, to: 3, playlist: '/hls/x' });
  assert.deepEqual([clip.title, clip.download, clip.watch], ['', '', '/watch/demo/b1?clip=c1']);
  assert.equal(readClip({ id: 'c1', stream: 'demo', broadcast: 'b1', from: '1', to: 3, playlist: '/hls/x' }), null);
});

test('a ticket stands before everything it is for', () => {
  assert.equal(ticketed('/api/v1/clips/c1', 'a.b'), '/t/a.b/api/v1/clips/c1');
  assert.equal(ticketed('/hls/x', null), '/hls/x');
});
