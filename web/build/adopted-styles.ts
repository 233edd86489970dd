/**
 * Build step that makes media-chrome work under `style-src 'self'`.
 *
 * media-chrome puts inline `<style>` elements into its shadow roots, which that policy blocks. This
 * plugin renames them to `<adopted-style>` (src/player/adopted-style.ts), an element that hands its text
 * to the shadow root as a constructed style sheet, which the policy allows. It fails the build when
 * media-chrome changes so that the rename would no longer reach every style.
 */
import type { Plugin } from 'vite';

const PACKAGE = '/node_modules/media-chrome/dist/';

/** Rewrites one media-chrome module; `null` when it holds no style. */
export function rewrite(code: string, file: string): string | null {
  let out = code
    .replaceAll('<style', '<adopted-style')
    .replaceAll('</style>', '</adopted-style>');
  if (file.endsWith('/utils/element-utils.js')) {
    // The rules media-chrome changes at run time live in the last style of a shadow root. It may ask for
    // them before the browser has upgraded the elements, so they are upgraded first.
    const lookup = '.querySelectorAll("style:not([media])")';
    const parts = out.split(`styleParent${lookup}`);
    if (parts.length !== 3) {
      throw new Error(`media-chrome looks up its styles ${parts.length - 1} times, not twice: adapt adopted-styles.ts`);
    }
    out = parts.join(`(customElements.upgrade(styleParent), styleParent).querySelectorAll("adopted-style:not([media])")`);
  }
  if (/createElement\(["']style["']\)|querySelector(All)?\(["'`]style/.test(out)) {
    throw new Error(`${file} handles <style> in a way adopted-styles.ts does not know`);
  }
  return out === code ? null : out;
}

/** The Vite plugin. */
export function adoptedStyles(): Plugin {
  return {
    name: 'weir:adopted-styles',
    transform(code, id) {
      const file = id.split('?')[0] ?? id;
      if (!file.includes(PACKAGE)) return null;
      const out = rewrite(code, file);
      return out === null ? null : { code: out, map: null };
    },
  };
}
