import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.mjs';

const { KEPT, Log, mentions, sample } = await load('src/chat/log.ts');

const id = (n) => String(n).padStart(13, '0');
const said = (n, user = 'ann', text = `t${n}`) => ({
  type: 'message', id: id(n), user, name: user, roles: [], text, reply: null, nonce: null,
});
const numbers = (messages) => messages.map(({ id }) => Number(id));

test('messages are in the order of their ids, each once, however they come', () => {
  const log = new Log();
  assert.deepEqual(numbers(log.take([said(3), said(1), said(3)]).added), [3, 1]);
  assert.deepEqual(numbers(log.take([said(2), said(1)]).added), [2]);
  assert.deepEqual(numbers(log.messages), [1, 2, 3]);
  assert.equal(log.newest, id(3));
});

test('what was taken back is gone, also where it comes later or with it', () => {
  const log = new Log();
  log.take([said(1), said(2, 'bob'), said(3)]);
  assert.deepEqual(log.take([{ type: 'delete', id: id(4), message: id(2) }]).removed, [id(2)]);
  assert.deepEqual(log.take([{ type: 'purge', id: id(5), user: 'ann' }]).removed, [id(1), id(3)]);
  assert.deepEqual(numbers(log.messages), []);
  // A page of history knows nothing of that.
  assert.deepEqual(numbers(log.takeOlder([said(0), said(2, 'bob'), said(0, 'eve')])), [0]);
  assert.deepEqual(numbers(log.take([said(6)]).added), [6]);
  const { added } = new Log().take([said(7), { type: 'delete', id: id(8), message: id(7) }]);
  assert.deepEqual(added, []);
});

test('older messages stand before what is there, and old ones are let go of and read again', () => {
  const log = new Log();
  log.take(Array.from({ length: KEPT + 5 }, (_, n) => said(n + 100)));
  assert.deepEqual(log.trim().map(Number), [100, 101, 102, 103, 104]);
  assert.deepEqual(numbers(log.takeOlder([said(104), said(50), said(105)])), [104, 50]);
  assert.deepEqual(numbers(log.messages).slice(0, 3), [50, 104, 105]);
});

test('of more than can be read what concerns the reader is shown, and others from all over', () => {
  const all = Array.from({ length: 100 }, (_, n) => said(n, n % 50 === 7 ? 'me' : 'x'));
  const { shown, left } = sample(all, 10, ({ user }) => user === 'me');
  assert.equal(shown.length, 10);
  assert.equal(left, 90);
  assert.deepEqual(numbers(shown).filter((n) => n % 50 === 7), [7, 57]);
  assert.deepEqual(numbers(shown), numbers(shown).toSorted((a, b) => a - b));
  assert.ok(numbers(shown).some((n) => n > 80));
  assert.deepEqual(sample(all.slice(0, 10), 10, () => false), { shown: all.slice(0, 10), left: 0 });
  // All of what concerns him, whatever it is.
  assert.equal(sample(all, 1, ({ user }) => user === 'me').shown.length, 2);
});

test('a mention is of the whole name', () => {
  assert.ok(mentions('hi @Ann, you', 'ann'));
  assert.ok(mentions('@ann', 'Ann'));
  assert.ok(!mentions('hi @Anna', 'Ann'));
  assert.ok(!mentions('Ann', 'Ann'));
  assert.ok(!mentions('@', ''));
});
