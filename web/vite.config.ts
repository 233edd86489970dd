import { defineConfig } from 'vite';
import { adoptedStyles } from './build/adopted-styles.ts';

export default defineConfig({
  plugins: [adoptedStyles()],
  build: {
    target: 'es2022',
    // Every asset is a file of its own: the CSP allows no data: script, style or font.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // hls.js is one module of 600 kB that every viewer needs at once.
    chunkSizeWarningLimit: 800,
    rolldownOptions: { input: ['index.html', 'watch.html'] },
  },
});
