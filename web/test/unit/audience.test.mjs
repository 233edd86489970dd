import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { load } from './load.mjs';

const { encode, intervalIn, waitMs } = await load('src/audience/cmcd.ts');
const { readingOf, stateOf } = await load('src/audience/reading.ts');
const { Session, uuid } = await load('src/audience/session.ts');
const { Beacon } = await load('src/audience/beacon.ts');

const store = new Map();
globalThis.sessionStorage = { getItem: (name) => store.get(name) ?? null, setItem: (name, value) => store.set(name, value) };
beforeEach(() => store.clear());

test('a report is one dictionary, its keys in order, and what is not known left out', () => {
  const line = encode({
    e: 't', cid: 'alice', sid: 'c0ffee', sn: 3, st: 'll', sta: 'p', ts: 1764360000000, bl: 12_320.7, br: 2_400, bsa: 2, bsda: 840, ltc: 4_200, msd: 640, mtp: 5_149,
    'weir-rendition': '720p',
  });
  assert.equal(line, 'bl=(12300),br=(2400),bsa=(2),bsda=(840),cid="alice",e=t,ltc=4200,msd=640,mtp=(5100),sf=h,sid="c0ffee",sn=3,st=ll,sta=p,ts=1764360000000,v=2,weir-rendition="720p"');
});

test('flags stand alone, strings are escaped, and nothing is written that the grammar does not know', () => {
  const rest = { e: 'e', cid: 'a"b\\c\né', sid: 's', sn: 0, st: 'v', sta: 'f', ts: 1 };
  assert.equal(encode({ ...rest, bs: true, ec: ['fragLoadError', 'x"y'] }), 'bs,cid="a\\"b\\\\c??",e=e,ec=("fragLoadError" "x\\"y"),sf=h,sid="s",sn=0,st=v,sta=f,ts=1,v=2');
  assert.equal(encode({ ...rest, cid: 'a', bs: false, bl: Number.NaN, br: Infinity, ltc: -3, ec: [] }), 'cid="a",e=e,sf=h,sid="s",sn=0,st=v,sta=f,ts=1,v=2');
  assert.equal(/cid="(x*)"/.exec(encode({ ...rest, cid: 'x'.repeat(500) }))[1].length, 128);
});

test('waits lie a sixth around the mean, and the mean is asked for within bounds', () => {
  assert.deepEqual([0, 0.5, 1].map((random) => waitMs(30, random)), [25_000, 30_000, 35_000]);
  assert.equal(waitMs(300, 0), 250_000);
  const table = [[{ interval_s: 60 }, 60], [{ interval_s: 1 }, 10], [{ interval_s: 9e9 }, 300], [{ interval_s: '60' }, null], [{ interval_s: null }, null], [{}, null], [null, null], ['x', null]];
  for (const [body, expected] of table) assert.equal(intervalIn(body), expected, JSON.stringify(body));
});

test('an id is a UUID of version 4', () => {
  assert.match(uuid(new Uint8Array(16).fill(255)), /^ffffffff-ffff-4fff-bfff-ffffffffffff$/);
  assert.match(uuid(new Uint8Array(16)), /^00000000-0000-4000-8000-000000000000$/);
});

test('a reload goes on with the session and its counts, a copy of an open tab does not', () => {
  const first = new Session('alice');
  assert.deepEqual([first.take(), first.take()], [0, 1]);
  assert.deepEqual(first.total({ stalls: 2, stallMs: 800, dropped: 5 }), { stalls: 2, stallMs: 800, dropped: 5 });
  first.started = true;
  assert.notEqual(new Session('alice').id, first.id, 'the other tab is open');
  first.leave();
  const again = new Session('alice');
  assert.equal(again.id, first.id);
  assert.equal(again.take(), 2);
  assert.equal(again.started, true);
  assert.deepEqual(again.total({ stalls: 1, stallMs: 200, dropped: 0 }), { stalls: 3, stallMs: 1_000, dropped: 5 });
  assert.notEqual(new Session('alice/b1').id, first.id);
});

test('storage that throws or holds nonsense is another session', () => {
  store.set('weir.view.alice', '{"id":');
  assert.equal(new Session('alice').take(), 0);
  const kept = globalThis.sessionStorage;
  globalThis.sessionStorage = { getItem: () => { throw new Error('no'); }, setItem: () => { throw new Error('no'); } };
  const session = new Session('alice');
  session.leave();
  assert.equal(session.take(), 0);
  globalThis.sessionStorage = kept;
});

test('what the player does is told as the viewer sees it', () => {
  const base = { motion: 'moving', begun: true, blocked: false, refused: false, paused: false, seeking: false, waiting: false, holding: false };
  const table = [
    [{ motion: 'idle', begun: false }, false, null],
    [{ motion: 'loading', begun: false }, false, 's'],
    [{ motion: 'loading', begun: false }, true, 'r'],
    [{ begun: false, blocked: true, paused: true }, false, 'd'],
    [{}, true, 'p'],
    [{ paused: true }, true, 'a'],
    [{ seeking: true }, true, 'k'],
    [{ motion: 'still', waiting: true }, true, 'r'],
    [{ motion: 'still', holding: true }, true, 'r'],
    [{ motion: 'still' }, true, 'p'],
    [{ motion: 'still', seeking: true }, true, 'k'],
    [{ motion: 'still', begun: false }, true, 'k'],
    [{ motion: 'ended', paused: true }, true, 'e'],
    [{ motion: 'still', refused: true }, true, 'f'],
    [{ refused: true }, true, 'p'],
  ];
  for (const [change, seen, expected] of table) assert.equal(stateOf({ ...base, ...change }, seen), expected, JSON.stringify(change));
});

const STATS = {
  motion: 'moving', begun: true, blocked: false, refused: false, paused: false, seeking: false, stalls: 0, stallMs: 0, droppedFrames: 0, buffer: 1.2, whole: false,
  lowLatency: true, behind: 2.5, fatalErrors: 0, errors: [], throughput: 5_000_000, currentLevel: 0, levels: [{ id: '720p', bitrate: 2_400_000, height: 720 }], height: 720,
};
const AROUND = { startupMs: 640, renditions: [], soundOnly: false, live: true };

test('a reading says what is shown, how far behind, and of what kind the stream is', () => {
  const reading = readingOf(STATS, AROUND);
  assert.deepEqual({ ...reading, counts: undefined }, {
    state: 'p', st: 'll', bl: 1_200, counts: undefined, fatal: 0, error: 'unknown', startupMs: 640, br: 2_400, 'weir-rendition': '720p', ltc: 2_500, mtp: 5_000,
  });
  assert.equal(readingOf({ ...STATS, motion: 'idle' }, AROUND), null);
  const back = readingOf({ ...STATS, whole: true, behind: 900 }, AROUND);
  assert.deepEqual([back.st, back.ltc], ['l', undefined]);
  assert.equal(readingOf(STATS, { ...AROUND, live: false }).st, 'v');
  assert.equal(readingOf({ ...STATS, lowLatency: false }, AROUND).st, 'l');
});

test('without hls.js the rendition is told by the height of the picture, where that is one only', () => {
  const native = { ...STATS, levels: [], currentLevel: -1, throughput: null };
  const of = (renditions, more = {}) => readingOf(native, { ...AROUND, renditions, ...more })['weir-rendition'];
  assert.equal(of([{ name: '720p', height: 720, kbps: 1 }, { name: '480p', height: 480, kbps: 1 }]), '720p');
  assert.equal(of([{ name: 'source', height: 720, kbps: 1 }, { name: '720p', height: 720, kbps: 1 }]), undefined);
  assert.equal(of([{ name: 'audio', height: null, kbps: 96 }], { soundOnly: true }), 'audio');
});

test('the newest error that ended play gives its code', () => {
  const of = (errors, more = {}) => readingOf({ ...STATS, errors, ...more }, AROUND).error;
  assert.equal(of(['fatal fragLoadError: x', 'bufferStalledError: y', 'starts again in 300 ms: levelLoadError']), 'levelLoadError');
  assert.equal(of(['fatal bufferAppendError: x', 'bufferStalledError: y']), 'bufferAppendError');
  assert.equal(of([], { refused: true }), 'refused');
});

/** A beacon with hands on its clock, its player and its server. */
function beaconWith({ status = 204, body = null } = {}) {
  const at = { now: 1_000, reading: null, status, body, sent: [], parted: [] };
  const beacon = new Beacon({
    content: 'alice', session: new Session('alice'), read: () => at.reading, nowMs: () => at.now, wallMs: () => 1_764_360_000_000 + at.now, random: () => 0.5,
    post: (lines) => {
      at.sent.push(...lines.split('\n'));
      return Promise.resolve({ status: at.status, body: at.body });
    },
    part: (line) => at.parted.push(line),
  });
  /** Lets so much time pass, the reading being this from now on; gives what was sent meanwhile. */
  const pass = async (ms, change) => {
    if (change === null) at.reading = null;
    else if (change !== undefined) at.reading = { ...(at.reading ?? readingOf(STATS, AROUND)), ...change };
    at.sent = [];
    for (const end = at.now + ms; at.now < end; ) {
      at.now = Math.min(end, at.now + 500);
      beacon.tick();
      await Promise.resolve();
      await Promise.resolve();
    }
    return at.sent;
  };
  return { at, beacon, pass };
}
const value = (line, key) => new RegExp(`(?:^|,)${key}=([^,]*)`).exec(line)?.[1];
const counts = (stalls) => ({ stalls, stallMs: stalls * 400, dropped: 0 });

test('nothing is told while nothing is loaded; then the first state, and one report an interval', async () => {
  const { pass } = beaconWith();
  assert.deepEqual(await pass(120_000, null), []);
  const [first, ...others] = await pass(1_000, {});
  assert.deepEqual([value(first, 'e'), value(first, 'sta'), value(first, 'sn'), value(first, 'msd')], ['ps', 'p', '0', '640']);
  assert.deepEqual(others, []);
  const later = await pass(90_000);
  assert.deepEqual(later.map((line) => [value(line, 'e'), value(line, 'sn'), value(line, 'msd')]), [['t', '1', undefined], ['t', '2', undefined], ['t', '3', undefined]]);
});

test('changes are told at most once a second, the newest counting, and a halt in between is not lost', async () => {
  const { pass } = beaconWith();
  await pass(500, {});
  const sent = [...(await pass(500, { state: 'r', counts: counts(1) })), ...(await pass(500, { state: 'p' })), ...(await pass(500, { state: 'a' })), ...(await pass(2_000, {}))];
  assert.ok(sent.length <= 2, sent.join('\n'));
  assert.equal(value(sent.at(-1), 'sta'), 'a');
  assert.match(sent[0], /(^|,)bs,bsa=\(1\),bsda=\(400\)/);
  assert.ok(!sent.slice(1).some((line) => /(^|,)bs,/.test(line)));
});

test('a server that is away is not asked before the next interval, and is then told everything', async () => {
  const { at, pass } = beaconWith({ status: 503 });
  assert.equal((await pass(1_000, { counts: counts(1) })).length, 1);
  assert.deepEqual(await pass(20_000, { state: 'r', fatal: 1, error: 'levelLoadError' }), []);
  at.status = 204;
  const sent = await pass(12_000);
  assert.deepEqual(sent.map((line) => [value(line, 'e'), value(line, 'sta'), value(line, 'ec'), value(line, 'msd')]), [['e', 'r', '("levelLoadError")', '640'], ['ps', 'r', undefined, '640']]);
  assert.ok(sent.every((line) => /(^|,)bs,/.test(line)));
});

test('the interval is the one the server asks for, and 410 ends it', async () => {
  const { at, beacon, pass } = beaconWith({ status: 200, body: { interval_s: 60 } });
  await pass(500, {});
  assert.equal((await pass(300_000)).length, 5);
  at.status = 410;
  assert.equal((await pass(61_000)).length, 1);
  assert.deepEqual(await pass(600_000, { state: 'a' }), []);
  beacon.leave();
  assert.deepEqual(at.parted, []);
});

test('what has ended is told once', async () => {
  const { pass } = beaconWith();
  await pass(2_000, {});
  assert.deepEqual((await pass(120_000, { state: 'e' })).map((line) => value(line, 'sta')), ['e']);
  assert.deepEqual(await pass(60_000, null), []);
  assert.deepEqual((await pass(2_000, { state: 'p' })).map((line) => value(line, 'sta')), ['p']);
  assert.deepEqual((await pass(60_000, null)).map((line) => value(line, 'sta')), ['q'], 'it is no longer loaded');
});

test('a page that goes says so, and one that comes back begins again', async () => {
  const { at, beacon, pass } = beaconWith();
  beacon.leave();
  assert.deepEqual(at.parted, [], 'nothing was played');
  await pass(2_000, {});
  beacon.leave();
  assert.deepEqual(at.parted.map((line) => [value(line, 'e'), value(line, 'sta'), value(line, 'sn')]), [['ps', 'q', '1']]);
  beacon.enter();
  assert.deepEqual((await pass(1_000)).map((line) => [value(line, 'e'), value(line, 'sta'), value(line, 'sn')]), [['ps', 'p', '2']]);
});
