import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { load } from './load.mjs';

const { rewrite } = await load('build/adopted-styles.ts');
const PACKAGE = fileURLToPath(new URL('../../node_modules/media-chrome/dist/', import.meta.url));

test('no media-chrome module the pages use keeps an inline style', () => {
  const used = [...readFileSync(new URL('../../src/player/chrome.ts', import.meta.url), 'utf8').matchAll(/media-chrome\/dist\/([\w/.-]+\.js)/g)].map((m) => m[1]);
  assert.ok(used.length > 8);
  for (const file of [...used, 'media-container.js', 'media-chrome-button.js', 'media-tooltip.js', 'menu/media-chrome-menu.js', 'utils/element-utils.js']) {
    const code = readFileSync(PACKAGE + file, 'utf8');
    const out = rewrite(code, PACKAGE + file) ?? code;
    assert.doesNotMatch(out, /<\/?style[\s>]/, file);
    assert.doesNotMatch(out, /"style:not/, file);
  }
});

test('the built pages hold no inline style or script', () => {
  const dist = fileURLToPath(new URL('../../dist/', import.meta.url));
  let pages = [];
  try {
    pages = readdirSync(dist).filter((name) => name.endsWith('.html'));
  } catch {
    assert.fail('dist/ is missing: run `npm run build` first');
  }
  assert.deepEqual(pages.sort(), ['chat.html', 'index.html', 'overlay.html', 'studio.html', 'watch.html']);
  for (const page of pages) {
    const html = readFileSync(dist + page, 'utf8');
    assert.doesNotMatch(html, /<style|\sstyle=|\son\w+=/, page);
    assert.doesNotMatch(html, /<script(?![^>]*\ssrc=)/, page);
  }
});

test('a style handled in an unknown way fails the build', () => {
  assert.throws(() => rewrite('root.querySelector("style")', '/x.js'));
  assert.throws(() => rewrite('nothing here', '/utils/element-utils.js'));
});
