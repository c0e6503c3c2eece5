// Drives real browser pages for the end-to-end tests: one headless Chromium, any
// number of pages, commands on stdin, answers on stdout.
//
// Start: `node driver.mjs`. Environment: CHROMIUM (path, default
// /usr/bin/chromium), CHROMIUM_FLAGS (a JSON array of more flags for it). The first line on stdout is `{"ready":true,"browser":"…"}`,
// or `{"ready":false,"error":"…"}` and the process ends with status 1.
//
// Each line on stdin is one command, answered by one line on stdout:
//   {"id":1,"cmd":"open","page":"a","url":"https://127.0.0.1:4443/?room=x"}
//   → {"id":1,"ok":true,"value":null}   or   {"id":1,"ok":false,"error":"…"}
// Commands for one page run one after the other, in order; different pages run
// at the same time, so answers may come in another order than the commands.
//
// Every command takes `timeout` (ms, default 15000). Commands, with `page`:
//   open        url, media?: "ok" (fake camera and microphone, the default),
//               "denied" or "missing"; viewport?: {width, height}; tab?: "other page",
//               to share that page's cookies and storage
//   goto        url
//   reload
//   eval        expression                       → its value; promises are awaited
//   wait        expression                       → its value, once it is truthy
//   click       selector
//   fill        selector, value
//   press       key                              for example "Enter"
//   text        selector                         → the text that is shown there
//   stats                                        → await window.__call.stats()
//   console     clear?: true                     → [{type, text}] errors and warnings of
//               the page so far: type "error", "warning" or "pageerror"
//   viewport    width, height
//   screenshot  path
//   close
// and without `page`:
//   pages                                        → names of the open pages
//   quit                                         ends the driver
//
// The driver ends, and takes the browser and its files with it, when stdin
// closes, on SIGTERM, SIGINT and SIGHUP, and when the browser dies (status 1).
// SIGKILL ends the browser too, but leaves $TMPDIR/browser-driver-* behind.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const DEFAULT_TIMEOUT_MS = 15_000;
const LAUNCH_TIMEOUT_MS = 30_000;
const CLOSE_TIMEOUT_MS = 5_000;
/** What limits itself gets this much longer, because its message is the better one. */
const GRACE_MS = 500;
/** Time between two looks at a condition. */
const POLL_MS = 50;
/** Console lines kept per page; later ones are counted only. */
const MAX_CONSOLE_LINES = 1000;

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--no-proxy-server',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
  '--ignore-certificate-errors',
  // Candidates with addresses instead of mDNS names, which no server could resolve.
  '--disable-features=WebRtcHideLocalIpsWithMdns',
  '--autoplay-policy=no-user-gesture-required',
  // Pages behind one another keep their timers and their video.
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
];

// Everything the browser writes goes below this directory, and away with it.
const scratch = mkdtempSync(join(tmpdir(), 'browser-driver-'));
process.env.TMPDIR = scratch;

const pages = new Map();
/** The last command of each page, finished or not. */
const queues = new Map();
let browser = null;
let ending = false;

function answer(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

async function end(status) {
  if (ending) return;
  ending = true;
  try {
    if (browser) await within(CLOSE_TIMEOUT_MS, 'closing the browser', browser.close());
  } catch (error) {
    process.stderr.write(`browser driver: ${error.message}\n`);
  }
  rmSync(scratch, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  process.exit(status);
}

/** `promise`, or a rejection after `ms` and a little more. */
function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: no result within ${ms} ms`)), ms + GRACE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** What getUserMedia does where there is no device, or no permission. */
function breakMedia(errorName) {
  const refuse = () => Promise.reject(new DOMException('refused by the test', errorName));
  navigator.mediaDevices.getUserMedia = refuse;
}

function watchConsole(page) {
  const lines = [];
  const add = (type, text) => {
    if (lines.length < MAX_CONSOLE_LINES) lines.push({ type, text });
  };
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) add(message.type(), message.text());
  });
  page.on('pageerror', (error) => add('pageerror', error.stack ?? String(error)));
  page.on('crash', () => add('pageerror', 'the page crashed'));
  return lines;
}

async function open({ page: name, url, media = 'ok', viewport, tab, timeout }) {
  if (pages.has(name)) throw new Error(`page "${name}" is already open`);
  const errorName = { ok: null, denied: 'NotAllowedError', missing: 'NotFoundError' }[media];
  if (errorName === undefined) throw new Error(`media is ok, denied or missing, not "${media}"`);
  const context = tab
    ? pageNamed(tab).context
    : await browser.newContext({ ignoreHTTPSErrors: true, viewport: viewport ?? { width: 1280, height: 720 } });
  const page = await context.newPage();
  const entry = { page, context, console: watchConsole(page) };
  pages.set(name, entry);
  page.on('close', () => pages.get(name) === entry && pages.delete(name));
  try {
    if (errorName) await page.addInitScript(breakMedia, errorName);
    await page.goto(url, { timeout, waitUntil: 'load' });
  } catch (error) {
    await closePage(name, entry);
    throw error;
  }
}

async function closePage(name, { page, context }) {
  pages.delete(name);
  const shared = [...pages.values()].some((other) => other.context === context);
  await (shared ? page.close() : context.close());
}

function pageNamed(name) {
  const entry = pages.get(name);
  if (!entry) throw new Error(`no page "${name}" is open`);
  return entry;
}

/**
 * The value of `expression` once it is truthy. Playwright's own waitForFunction
 * neither awaits promises nor works under the page's content security policy.
 */
async function waitFor(page, expression, timeout) {
  const deadline = Date.now() + timeout;
  while (Date.now() < deadline) {
    const value = await page.evaluate(expression);
    if (value) return value;
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
  throw new Error(`not true within ${timeout} ms: ${expression}`);
}

const pageCommands = {
  goto: ({ page }, { url, timeout }) => page.goto(url, { timeout }).then(() => null),
  reload: ({ page }, { timeout }) => page.reload({ timeout }).then(() => null),
  eval: ({ page }, { expression }) => page.evaluate(expression),
  wait: ({ page }, { expression, timeout }) => waitFor(page, expression, timeout),
  click: ({ page }, { selector, timeout }) => page.click(selector, { timeout }),
  fill: ({ page }, { selector, value, timeout }) => page.fill(selector, value, { timeout }),
  press: ({ page }, { key }) => page.keyboard.press(key),
  text: ({ page }, { selector, timeout }) => page.innerText(selector, { timeout }),
  stats: ({ page }) => page.evaluate('window.__call.stats()'),
  console: ({ console: lines }, { clear }) => (clear ? lines.splice(0) : [...lines]),
  viewport: ({ page }, { width, height }) => page.setViewportSize({ width, height }),
  screenshot: ({ page }, { path, timeout }) => page.screenshot({ path, timeout }).then(() => null),
  close: (entry, { page: name }) => closePage(name, entry),
};

async function run(command) {
  if (command.cmd === 'pages') return [...pages.keys()];
  if (typeof command.page !== 'string') throw new Error('"page" is missing');
  if (command.cmd === 'open') return open(command);
  const act = Object.hasOwn(pageCommands, command.cmd) ? pageCommands[command.cmd] : null;
  if (!act) throw new Error(`unknown command "${command.cmd}"`);
  return act(pageNamed(command.page), command);
}

async function handle(line) {
  let command;
  try {
    command = Object(JSON.parse(line));
  } catch {
    answer({ id: null, ok: false, error: 'the line is not JSON' });
    return;
  }
  const { id = null, cmd, page = '' } = command;
  if (cmd === 'quit') {
    answer({ id, ok: true, value: null });
    await end(0);
    return;
  }
  const timeout = command.timeout ?? DEFAULT_TIMEOUT_MS;
  const result = (queues.get(page) ?? Promise.resolve())
    .then(() => within(timeout, `${cmd} on page "${page}"`, run({ ...command, timeout })))
    .then(
      (value) => answer({ id, ok: true, value: value ?? null }),
      (error) => answer({ id, ok: false, error: error.message }),
    );
  queues.set(page, result);
}

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => end(0));
// Nobody is left to read the answers.
process.stdout.on('error', () => end(1));
const early = [];
let take = (line) => early.push(line);
const input = createInterface({ input: process.stdin });
input.on('line', (line) => take(line));
input.on('close', () => end(0));

try {
  const { chromium } = await import('playwright-core');
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    timeout: LAUNCH_TIMEOUT_MS,
    args: [...FLAGS, ...JSON.parse(process.env.CHROMIUM_FLAGS ?? '[]')],
    handleSIGTERM: false,
    handleSIGINT: false,
    handleSIGHUP: false,
  });
  browser.on('disconnected', () => {
    if (!ending) process.stderr.write('browser driver: the browser died\n');
    end(1);
  });
  if (ending) await browser.close();
  answer({ ready: true, browser: `Chromium ${browser.version()}` });
  take = handle;
  early.splice(0).forEach(handle);
} catch (error) {
  answer({ ready: false, error: error.message });
  await end(1);
}
