/** Imports a TypeScript module of the pages into node, by Vite itself: no second toolchain for tests. */
import { fileURLToPath } from 'node:url';
import { runnerImport } from 'vite';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

export async function load(path) {
  const { module } = await runnerImport(`${ROOT}${path}`, { root: ROOT, configFile: false, logLevel: 'error' });
  return module;
}
