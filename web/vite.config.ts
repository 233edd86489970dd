import { defineConfig } from 'vite';
import { adoptedStyles } from './build/adopted-styles.ts';
import { preloadImports } from './build/preload-imports.ts';

export default defineConfig({
  plugins: [adoptedStyles(), preloadImports({ later: ['rest'] })],
  build: {
    target: 'es2022',
    // Every asset is a file of its own: the CSP allows no data: script, style or font.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // hls.js is one module of 600 kB.
    chunkSizeWarningLimit: 800,
    rolldownOptions: {
      input: ['index.html', 'watch.html', 'chat.html', 'overlay.html', 'studio.html'],
      // What the pages share is one file: many small ones would each cost the first picture a request. The base style is part of
      // it, so that it stands before each page's own.
      output: { codeSplitting: { groups: [{ name: 'shared', test: /\/src\/(shared\/|style\/base)|vite\/preload-helper/ }] } },
    },
  },
});
