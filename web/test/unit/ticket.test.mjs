import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.mjs';

const { playlistUrl, ticketIn } = await load('src/watch/ticket.ts');

test('a ticket is what the fragment calls so, of legal characters and not too long', () => {
  const table = [
    ['#ticket=eyJh.eyJz.c2ln-_~', 'eyJh.eyJz.c2ln-_~'],
    ['ticket=a', 'a'],
    ['#t=3&ticket=a.b.c', 'a.b.c'],
    ['#ticket=a%2Eb', 'a.b'],
    [`#ticket=${'a'.repeat(4096)}`, 'a'.repeat(4096)],
    [`#ticket=${'a'.repeat(4097)}`, null],
    ['', null],
    ['#video', null],
    ['#ticket', null],
    ['#ticket=', null],
    ['#ticket=a/b', null],
    ['#ticket=a%2Fb', null],
    ['#ticket=a b', null],
    ['#ticket=a+b', null],
    ['#ticket=a\n', null],
    ['#ticket=<b>', null],
    ['#ticket=ä', null],
    ['#ticket=%', null],
    ['#ticket=.', null],
    ['#ticket=..', null],
  ];
  for (const [fragment, expected] of table) assert.equal(ticketIn(fragment), expected, fragment.slice(0, 40));
});

test('a ticket goes before the address of the playlist', () => {
  assert.equal(playlistUrl('alice', null), '/hls/alice/index.m3u8');
  assert.equal(playlistUrl('alice', 'a.b.c'), '/t/a.b.c/hls/alice/index.m3u8');
});
