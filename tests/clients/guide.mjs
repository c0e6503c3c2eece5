// Makes a page of the JavaScript in docs/clients.md: `node guide.mjs FILE` reads the
// script from standard input and writes the page to FILE.

import { build } from 'esbuild';
import { readFileSync, writeFileSync } from 'node:fs';

const [file] = process.argv.slice(2);
const { outputFiles } = await build({
  stdin: { contents: readFileSync(0, 'utf8'), resolveDir: import.meta.dirname },
  bundle: true,
  write: false,
  format: 'esm',
  // What protoo-client and debug ask of their surroundings.
  define: { global: 'globalThis', 'process.env.NODE_ENV': '"test"' },
  logLevel: 'warning',
});
const script = outputFiles[0].text.replaceAll('</script', '<\\/script');
writeFileSync(file, `<!doctype html><meta charset="utf-8"><body><script type="module">${script}</script>\n`);
