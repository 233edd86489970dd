import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.mjs';

const { phaseOf, shouldLoad, words, askAgainMs } = await load('src/watch/phase.ts');

test('the phase follows the API, and what is buffered is played out first', () => {
  const table = [
    // api, motion, seen, phase
    ['none', 'idle', false, 'connecting'],
    ['offline', 'idle', false, 'waiting'],
    ['starting', 'idle', false, 'starting'],
    ['starting', 'moving', true, 'live'],
    ['starting', 'ended', true, 'starting'],
    ['live', 'idle', false, 'starting'],
    ['live', 'loading', false, 'starting'],
    ['live', 'moving', true, 'live'],
    ['live', 'still', true, 'live'],
    ['live', 'ended', true, 'starting'],
    ['away', 'moving', true, 'away'],
    ['away', 'still', true, 'away'],
    ['away', 'loading', false, 'away'],
    ['offline', 'moving', true, 'live'],
    ['offline', 'still', true, 'ended'],
    ['offline', 'ended', true, 'ended'],
    ['missing', 'idle', false, 'unknown'],
    ['missing', 'moving', true, 'live'],
    ['missing', 'still', true, 'ended'],
    ['unreachable', 'moving', true, 'live'],
    ['unreachable', 'still', true, 'unreachable'],
    ['unreachable', 'idle', false, 'unreachable'],
  ];
  for (const [api, motion, seen, expected] of table) {
    assert.equal(phaseOf({ api, motion, seen, refused: false }), expected, `${api} ${motion} ${seen}`);
  }
});

test('a refusal is told once nothing moves, unless there is nothing to be let into', () => {
  const table = [
    // api, motion, seen, phase
    ['none', 'idle', false, 'connecting'],
    ['offline', 'idle', false, 'refused'],
    ['offline', 'still', true, 'ended'],
    ['starting', 'idle', false, 'refused'],
    ['live', 'loading', false, 'refused'],
    ['live', 'moving', true, 'live'],
    ['live', 'still', true, 'refused'],
    ['away', 'moving', true, 'away'],
    ['away', 'still', true, 'refused'],
    ['missing', 'idle', false, 'unknown'],
    ['unreachable', 'still', true, 'unreachable'],
  ];
  for (const [api, motion, seen, expected] of table) {
    assert.equal(phaseOf({ api, motion, seen, refused: true }), expected, `${api} ${motion} ${seen}`);
  }
});

test('what is played before the edge is never taken for the edge, and its end is told', () => {
  const table = [
    // api, motion, tape, refused, phase
    ['recorded', 'idle', undefined, false, 'opening'],
    ['recorded', 'loading', 'over', false, 'opening'],
    ['recorded', 'moving', 'over', false, 'recorded'],
    ['recorded', 'still', 'over', false, 'recorded'],
    ['recorded', 'ended', 'over', false, 'recorded'],
    ['recorded', 'still', 'over', true, 'refused'],
    ['recorded', 'moving', 'over', true, 'recorded'],
    ['live', 'moving', 'on', false, 'live'],
    ['live', 'still', 'on', false, 'live'],
    ['away', 'still', 'on', false, 'live'],
    ['away', 'still', undefined, false, 'away'],
    ['offline', 'still', 'over', false, 'recorded'],
    ['offline', 'ended', 'over', false, 'ended'],
    ['unreachable', 'still', 'over', false, 'unreachable'],
    ['unreachable', 'moving', 'over', false, 'recorded'],
    ['unreachable', 'ended', 'over', false, 'recorded'],
    ['gone', 'moving', 'over', false, 'recorded'],
    ['gone', 'still', 'over', false, 'gone'],
    ['gone', 'idle', undefined, false, 'gone'],
    ['refused', 'idle', undefined, true, 'refused'],
  ];
  for (const [api, motion, tape, refused, expected] of table) {
    assert.equal(phaseOf({ api, motion, seen: true, refused, tape }), expected, `${api} ${motion} ${tape} ${refused}`);
  }
});

test('what is not there has words for what it was', () => {
  const titles = ['gone', 'unknown'].flatMap((phase) => ['recording', 'clip'].map((what) => words(phase, 'alice', '', what).title));
  assert.equal(new Set(titles).size, 4);
  assert.equal(words('recorded', 'alice'), null);
});

test('a playlist is loaded when there is one to load and never over a moving picture', () => {
  const stream = (state, broadcast) => ({ state, broadcast });
  assert.equal(shouldLoad(stream('live', 'b1'), null, 'idle'), true);
  assert.equal(shouldLoad(stream('away', 'b1'), null, 'idle'), true);
  assert.equal(shouldLoad(stream('offline', null), null, 'idle'), false);
  assert.equal(shouldLoad(stream('starting', 'b1'), null, 'idle'), false);
  assert.equal(shouldLoad(stream('live', 'b1'), 'b1', 'still'), false);
  assert.equal(shouldLoad(stream('live', 'b2'), 'b1', 'moving'), false);
  assert.equal(shouldLoad(stream('live', 'b2'), 'b1', 'still'), true);
  assert.equal(shouldLoad(stream('live', 'b2'), 'b1', 'ended'), true);
  assert.equal(shouldLoad(stream('offline', null), 'b1', 'ended'), false);
});

test('every phase but live has words, and they name the stream', () => {
  for (const phase of ['connecting', 'waiting', 'starting', 'away', 'ended', 'unknown', 'unreachable', 'refused']) {
    assert.notEqual(words(phase, 'alice'), null, phase);
  }
  assert.equal(words('live', 'alice'), null);
  assert.match(words('waiting', 'alice').title, /alice/);
});

test('every reason to refuse says what is wrong and what to do, and no two say the same', () => {
  const codes = ['ticket_missing', 'ticket_invalid', 'ticket_expired', 'ticket_early', 'ticket_other_stream', 'ticket_other_address', 'ticket_revoked', ''];
  const said = codes.map((code) => words('refused', 'alice', code));
  for (const { title, text } of said) assert.ok(title !== '' && text !== '');
  assert.equal(new Set(said.map(({ title }) => title)).size, codes.length);
  assert.equal(new Set(said.map(({ text }) => text)).size, codes.length);
  assert.deepEqual(words('refused', 'alice', 'of_tomorrow'), words('refused', 'alice', ''));
});

test('the API is asked every second to every five, at once again while a stream starts, and less often when nobody looks or nobody answers', () => {
  for (const random of [0, 0.5, 0.999]) {
    for (const api of ['none', 'live', 'away', 'offline']) {
      const waitMs = askAgainMs(api, 0, false, random);
      assert.ok(waitMs >= 700 && waitMs <= 5_000, `${api}: ${waitMs}`);
    }
    assert.ok(askAgainMs('starting', 0, false, random) <= 300);
    assert.ok(askAgainMs('live', 0, true, random) > 10_000);
    assert.ok(askAgainMs('starting', 0, true, random) > 10_000);
    for (const api of ['recorded', 'gone', 'refused']) assert.ok(askAgainMs(api, 0, false, random) > 20_000);
    assert.ok(askAgainMs('unreachable', 50, false, random) <= 10_000);
  }
  assert.ok(askAgainMs('unreachable', 3, false, 0.5) > askAgainMs('unreachable', 1, false, 0.5));
});
