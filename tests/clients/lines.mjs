// The loop of a helper: commands as lines of JSON on standard input, an answer for
// each on standard output, as tests/browser/driver.mjs has them.

import { createInterface } from 'node:readline';

/**
 * Says that the helper is ready and calls `act(command)` for each line, one after
 * the other; `end` is awaited once, before the process exits: when standard input
 * closes, and on SIGTERM, SIGINT and SIGHUP.
 */
export async function serve(act, end) {
  let ending;
  const finish = async () => {
    ending ??= end();
    await ending.catch((error) => process.stderr.write(`${error.stack}\n`));
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, finish);
  // Nobody is left to read the answers.
  process.stdout.on('error', finish);
  const answer = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
  answer({ ready: true });
  let last = Promise.resolve();
  const input = createInterface({ input: process.stdin });
  input.on('line', (line) => {
    const command = JSON.parse(line);
    last = last
      .then(() => act(command))
      .then(
        (value) => answer({ id: command.id, ok: true, value: value ?? null }),
        (error) => answer({ id: command.id, ok: false, error: error.stack ?? String(error) }),
      );
  });
  input.on('close', finish);
}
