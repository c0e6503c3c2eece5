// Random identifiers and delays.

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';

/** `length` characters of a–z and 0–9. */
export function randomId(length) {
  const bytes = crypto.getRandomValues(new Uint8Array(length));
  return Array.from(bytes, (byte) => ALPHABET[byte % ALPHABET.length]).join('');
}

/**
 * Milliseconds to wait before try number `tries` (from 0). Random, so that the
 * clients of a restarted server do not come back all at once.
 */
export function backoff(tries, { first, most }) {
  const full = Math.min(most, first * 2 ** tries);
  return full / 2 + (Math.random() * full) / 2;
}
