// Builds a page for each version of mediasoup-client: `node build.mjs DIRECTORY`
// writes DIRECTORY/VERSION.html.

import { build } from 'esbuild';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Version → name of the package under which it is installed. */
const VERSIONS = {
  '3.24.1': 'mediasoup-client',
  '3.18.7': 'mediasoup-client-3.18.7',
  '3.7.16': 'mediasoup-client-3.7.16',
};

const [directory] = process.argv.slice(2);
mkdirSync(directory, { recursive: true });
for (const [version, name] of Object.entries(VERSIONS)) {
  const { outputFiles } = await build({
    entryPoints: ['page.mjs'],
    bundle: true,
    write: false,
    format: 'iife',
    alias: name === 'mediasoup-client' ? {} : { 'mediasoup-client': name },
    // What protoo-client and debug ask of their surroundings.
    define: { global: 'globalThis', 'process.env.NODE_ENV': '"test"' },
    logLevel: 'warning',
  });
  const script = outputFiles[0].text.replaceAll('</script', '<\\/script');
  const html = `<!doctype html><meta charset="utf-8"><title>${version}</title><body><script>${script}</script>\n`;
  writeFileSync(join(directory, `${version}.html`), html);
}
