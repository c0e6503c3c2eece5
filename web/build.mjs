// Bundles src/main.js and its npm packages into dist/app.js, and collects the
// licences of what was bundled into dist/licenses.txt.

import { build } from 'esbuild';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';

const result = await build({
  entryPoints: ['src/main.js'],
  outfile: 'dist/app.js',
  bundle: true,
  minify: true,
  format: 'iife',
  target: ['chrome111', 'firefox120', 'safari16'],
  legalComments: 'none',
  metafile: true,
  logLevel: 'warning',
});

/** `node_modules/a/lib/x.js` → `node_modules/a`, scoped and nested packages included. */
function packageOf(input) {
  return /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1];
}

function licenceOf(folder) {
  const { name, version, license } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'));
  const file = readdirSync(folder).find((entry) => /^licen[sc]e/i.test(entry));
  const text = file ? readFileSync(`${folder}/${file}`, 'utf8').trim() : `License: ${license}`;
  return `${name} ${version}\n\n${text}\n`;
}

const folders = new Set(Object.keys(result.metafile.inputs).map(packageOf).filter(Boolean));
const rule = `\n${'-'.repeat(72)}\n\n`;
writeFileSync('dist/licenses.txt', [...folders].sort().map(licenceOf).join(rule));
