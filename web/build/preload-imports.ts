/**
 * Build step that lets the browser fetch what a page imports later (`import()`) together with the page: without it such a
 * module is only known when the script that asks for it runs.
 */
import type { Plugin } from 'vite';

/** The Vite plugin. */
export function preloadImports(): Plugin {
  return {
    name: 'weir:preload-imports',
    transformIndexHtml: (_html, { chunk }) =>
      (chunk?.dynamicImports ?? []).map((file) => ({
        tag: 'link',
        attrs: { rel: 'modulepreload', crossorigin: true, href: `/${file}` },
        injectTo: 'head',
      })),
  };
}
