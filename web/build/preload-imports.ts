/**
 * Build step that lets the browser fetch what a page imports later (`import()`) together with the page: without it such a
 * module is only known when the script that asks for it runs. Not those that the first picture should not wait beside.
 */
import type { Plugin } from 'vite';

/** The Vite plugin; `later` names the modules that are left to be fetched when they are asked for. */
export function preloadImports({ later }: { later: string[] }): Plugin {
  return {
    name: 'weir:preload-imports',
    transformIndexHtml: (_html, { bundle, chunk }) =>
      (chunk?.dynamicImports ?? [])
        .filter((file) => {
          const module = bundle?.[file];
          return !(module?.type === 'chunk' && later.includes(module.name));
        })
        .map((file) => ({
          tag: 'link',
          attrs: { rel: 'modulepreload', crossorigin: true, href: `/${file}` },
          injectTo: 'head',
        })),
  };
}
