// Drives pages of a headless Firefox over WebDriver BiDi, with the commands `open`,
// `eval` and `console` of tests/browser/driver.mjs. Environment: FIREFOX (path,
// default /usr/bin/firefox-esr), FIREFOX_PREFERENCES (a JSON object of more of them).

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serve } from './lines.mjs';

const LAUNCH_TIMEOUT_MS = 60_000;
/** Console lines kept per page. */
const MAX_CONSOLE_LINES = 1000;

// Everything the browser writes goes below this directory, and away with it.
const scratch = mkdtempSync(join(tmpdir(), 'firefox-driver-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true, maxRetries: 5 }));
process.env.TMPDIR = scratch;
process.env.HOME = scratch;

const { default: puppeteer } = await import('puppeteer-core');
const browser = await puppeteer.launch({
  browser: 'firefox',
  executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
  headless: true,
  acceptInsecureCerts: true,
  timeout: LAUNCH_TIMEOUT_MS,
  handleSIGINT: false,
  handleSIGTERM: false,
  handleSIGHUP: false,
  extraPrefsFirefox: {
    'media.navigator.streams.fake': true,
    'media.navigator.permission.disabled': true,
    'media.autoplay.default': 0,
    // Candidates with addresses instead of mDNS names, which no server could resolve.
    'media.peerconnection.ice.obfuscate_host_addresses': false,
    'network.proxy.type': 0,
    // It asks nobody but the server under test.
    'network.captive-portal-service.enabled': false,
    'network.connectivity-service.enabled': false,
    'app.normandy.enabled': false,
    'browser.safebrowsing.downloads.remote.enabled': false,
    'services.settings.server': 'data:,#remote-settings-dummy/v1',
    'media.gmp-manager.updateEnabled': false,
    ...JSON.parse(process.env.FIREFOX_PREFERENCES ?? '{}'),
  },
});
browser.on('disconnected', () => process.exit(1));

const pages = new Map();

const commands = {
  async open({ page: name, url, timeout }) {
    const page = await browser.newPage();
    const lines = [];
    const add = (type, text) => lines.length < MAX_CONSOLE_LINES && lines.push({ type, text });
    page.on('console', (message) => {
      if (['error', 'warn'].includes(message.type())) add(message.type(), message.text());
    });
    page.on('pageerror', (error) => add('pageerror', error.stack ?? String(error)));
    pages.set(name, { page, lines });
    await page.goto(url, { timeout, waitUntil: 'load' });
  },
  eval: ({ page: name, expression }) => pages.get(name).page.evaluate(expression),
  console: ({ page: name }) => pages.get(name).lines,
};

await serve(
  (command) => commands[command.cmd](command),
  () => {
    browser.removeAllListeners('disconnected');
    return browser.close();
  },
);
