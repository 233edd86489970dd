import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.mjs';

const { Replay } = await load('src/chat/replay.ts');

const BEGUN = 1_770_000_000_000;
const ok = (value) => Promise.resolve({ kind: 'ok', clockOffsetMs: 0, value });

/** A chat with a message in each second, in parts of 20, and what is seen of it. */
function stage(seconds, goesOn = () => false) {
  const said = Array.from({ length: seconds }, (_, n) => ({ message: { id: String(n).padStart(5, '0') }, atMs: BEGUN + n * 1000 }));
  const part = (found) => ok({ said: found.slice(0, 20), next: found.length > 20 ? found[19].message.id : null });
  const shown = { ids: [], cleared: 0, found: null, asked: 0 };
  const source = {
    from: ({ ms, after }) => {
      shown.asked += 1;
      return part(said.filter((one) => (ms === undefined ? one.message.id > after : one.atMs >= ms)));
    },
    before: ({ ms }) => part(said.filter((one) => one.atMs < ms).toReversed()),
  };
  const told = {
    clear: () => {
      shown.ids = [];
      shown.cleared += 1;
    },
    show: (messages) => shown.ids.push(...messages.map(({ id }) => Number(id))),
    found: (any) => (shown.found = any),
  };
  const replay = new Replay(source, told, goesOn);
  /** Plays from one second to another. */
  const play = async (from, to) => {
    for (let ms = from * 1000; ms <= to * 1000; ms += 250) {
      replay.tick(BEGUN + ms, ms);
      await new Promise(setImmediate);
    }
  };
  return { said, shown, replay, play };
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, n) => from + n);

test('messages come when their picture does, each once', async () => {
  const { shown, play } = stage(200);
  await play(0, 30);
  assert.deepEqual(shown.ids, numbers(0, 30));
  await play(30, 120);
  assert.deepEqual(shown.ids, numbers(0, 120));
  assert.equal(shown.cleared, 1);
});

test('who leaps is shown what was said there and a little before', async () => {
  const { shown, play } = stage(500);
  await play(0, 5);
  await play(302, 310);
  assert.deepEqual(shown.ids, numbers(280, 310));
  // Back again, and a pause does nothing.
  await play(100, 102);
  await play(102, 102);
  assert.deepEqual(shown.ids, numbers(80, 102));
  assert.equal(shown.cleared, 3);
});

test('a chat without messages is asked for once', async () => {
  const { shown, play } = stage(0);
  await play(0, 60);
  assert.deepEqual([shown.ids, shown.found, shown.asked], [[], false, 1]);
});

test('while the broadcast runs, what is said is asked for again', async () => {
  const { shown, said, play } = stage(10, () => true);
  await play(0, 12);
  for (let n = 10; n < 30; n += 1) said.push({ message: { id: String(n).padStart(5, '0') }, atMs: BEGUN + n * 1000 });
  await play(12, 40);
  assert.deepEqual(shown.ids, numbers(0, 29));
  assert.ok(shown.asked < 12, `${shown.asked} requests`);
});
