import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.mjs';

const { rateAt } = await load('src/player/pace.ts');

const regular = { inParts: false, rate: 1, latency: 6, target: 6, buffer: 5, part: 0, chunk: 2 };
const low = { inParts: true, rate: 1, latency: 1, target: 1, buffer: 1, part: 0.33, chunk: 2 };

test('who is where he is to be plays as fast as it comes', () => {
  for (const place of [regular, low, { ...regular, latency: null }, { ...low, target: null }]) assert.equal(rateAt(place), 1);
});

test('low latency is caught up with until it is reached, but not from far', () => {
  assert.equal(rateAt({ ...low, latency: 1.4 }), 1.1);
  assert.equal(rateAt({ ...low, latency: 1.2 }), 1);
  assert.equal(rateAt({ ...low, latency: 1.2, rate: 1.1 }), 1.1);
  assert.equal(rateAt({ ...low, latency: 1.05, rate: 1.1 }), 1);
  assert.equal(rateAt({ ...low, latency: 5.1 }), 1);
  assert.equal(rateAt({ ...low, latency: 1.4, buffer: 0.3 }), 1);
});

test('who leapt towards the edge falls back to where he was', () => {
  assert.equal(rateAt({ ...regular, latency: 4 }), 0.95);
  assert.equal(rateAt({ ...regular, latency: 5.2 }), 1);
  assert.equal(rateAt({ ...regular, latency: 5.2, rate: 0.95 }), 0.95);
  assert.equal(rateAt({ ...regular, latency: 5.95, rate: 0.95 }), 1);
  // Behind is where a viewer may be.
  assert.equal(rateAt({ ...regular, latency: 60 }), 1);
});

test('a rate that the viewer chose stays', () => {
  assert.equal(rateAt({ ...regular, latency: 4, rate: 1.25 }), 1.25);
});
