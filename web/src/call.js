// The call as the user knows it: one intention to be in a room, kept up over as
// many signaling connections as it takes.
//
// protoo-client is told not to retry by itself: before each try the page asks
// for admission, because only that says why a connection would be refused.

import { Peer, WebSocketTransport } from 'protoo-client';
import { askAdmission } from './admission.js';
import { backoff } from './random.js';
import { Session } from './session.js';

const RETRY = { first: 500, most: 8000 };
/** Tries without joining before a call that was joined once is given up: about 4 minutes. */
const MAX_TRIES = 40;
/** Longest wait for the server to acknowledge a leave. */
const LEAVE_TIMEOUT_MS = 1000;

/**
 * Emits `change` after anything visible changed and `problem` (detail: text)
 * for what goes wrong without ending the call.
 *
 * `state` is one of
 *   idle          not in a call; `notice` says why it ended, if it did
 *   joining       on the way into the room for the first time
 *   joined        in the room
 *   reconnecting  was in the room, is on the way back; `notice` says why
 */
export class Call extends EventTarget {
  #options;
  #media;
  /** Counts intentions: a newer one makes everything older stale. */
  #intent = 0;
  #protoo = null;

  constructor(options, media) {
    super();
    this.#options = options;
    this.#media = media;
    this.state = 'idle';
    this.notice = null;
    this.room = '';
    this.name = '';
    this.session = null;
    this.timing = {};
    this.errors = [];
    media.addEventListener('change', () => this.#sync());
  }

  get peers() {
    return this.session ? [...this.session.peers.values()] : [];
  }

  /** Enters the room and stays in it until `leave()` or a final refusal. */
  async join(room, name) {
    const intent = ++this.#intent;
    this.room = room;
    this.name = name;
    this.#become('joining');
    const notice = await this.#stayIn(() => intent !== this.#intent);
    if (intent !== this.#intent) return;
    this.#fail(notice.text);
    this.#become('idle', notice);
  }

  /** Tells the server goodbye, if it listens, and ends the call. */
  async leave() {
    this.#intent += 1;
    const protoo = this.#protoo;
    this.#become('idle', { kind: 'info', text: 'You left the call.' });
    this.#dropSession();
    if (!protoo) return;
    const timeout = new Promise((done) => setTimeout(done, LEAVE_TIMEOUT_MS));
    // A server that does not know the request still sees the socket close.
    await Promise.race([protoo.request('leaveRoom').catch(() => {}), timeout]);
    protoo.close();
  }

  async rename(name) {
    if (!name || name === this.name) return;
    const before = this.name;
    this.name = name;
    this.#changed();
    try {
      await this.session?.rename(name);
    } catch (error) {
      this.name = before;
      this.#problem(`Your name could not be changed: ${error.message}`);
      this.#changed();
    }
  }

  /** Tries until it is over for good; resolves to the notice that says why. */
  async #stayIn(stale) {
    let joinedOnce = false;
    let tries = 0;
    for (;;) {
      const end = await this.#tryOnce(stale);
      if (stale()) return null;
      joinedOnce ||= end.joined;
      // Without this, a network that blocks media would be joined again and again at full speed.
      tries = end.joined && !end.mediaLost ? 0 : tries + 1;
      if (end.final || !joinedOnce) return { kind: 'error', text: end.reason };
      if (tries >= MAX_TRIES) return { kind: 'error', text: `Reconnecting failed. ${end.reason}` };
      this.#fail(end.reason);
      this.#become('reconnecting', { kind: 'warning', text: `${end.reason} Reconnecting…` });
      await new Promise((done) => setTimeout(done, backoff(tries, RETRY)));
      if (stale()) return null;
    }
  }

  /** One admission, one connection, one session: {joined, mediaLost, final, reason}. */
  async #tryOnce(stale) {
    const verdict = await askAdmission(this.room, this.#options.peerId);
    if (verdict.kind !== 'welcome' || stale()) {
      return { joined: false, final: verdict.kind === 'refused', reason: verdict.reason };
    }
    const protoo = new Peer(new WebSocketTransport(this.#url(), { retry: { retries: 0 } }));
    this.#protoo = protoo;
    const end = await this.#live(protoo);
    if (this.#protoo === protoo) {
      this.#protoo = null;
      this.#dropSession();
    }
    return end;
  }

  /** Lives on one connection until it ends. */
  #live(protoo) {
    return new Promise((resolve) => {
      let opened = false;
      let joined = false;
      const end = (reason, { final = false, mediaLost = false } = {}) => {
        resolve({ joined, mediaLost, final, reason });
        // Now, before protoo-client opens a connection of its own accord.
        protoo.close();
      };
      protoo.on('open', async () => {
        opened = true;
        this.timing.wsOpen ??= performance.now();
        try {
          await this.#enter(protoo, end);
          joined = true;
        } catch (error) {
          end(`Joining failed: ${error.message}.`);
        }
      });
      protoo.on('failed', () => end('The server refused the connection.'));
      protoo.on('disconnected', () => end('The connection to the server was lost.'));
      // Without `disconnected` before it, the server closed with code 4000: for good.
      protoo.on('close', () => {
        const reason = opened
          ? 'The server ended this session: you joined again from another tab or device, or the room was closed.'
          : 'The server closed the connection.';
        end(reason, { final: true });
      });
    });
  }

  async #enter(protoo, end) {
    const session = new Session(protoo, this.#options, {
      changed: () => this.#changed(),
      problem: (text) => this.#problem(text),
      mediaLost: (text) => end(text, { mediaLost: true }),
    });
    this.session = session;
    await session.join(this.name);
    if (this.session !== session) throw new Error('the connection ended meanwhile');
    this.timing.joined ??= performance.now();
    this.#become('joined');
    this.#sync();
  }

  #sync() {
    if (this.state === 'joined') this.session?.sync(this.#media);
    this.#changed();
  }

  #url() {
    const query = new URLSearchParams({ roomId: this.room, peerId: this.#options.peerId });
    return `wss://${this.#options.host}/?${query}`;
  }

  #dropSession() {
    this.#protoo = null;
    this.session?.close();
    this.session = null;
  }

  #become(state, notice = null) {
    this.state = state;
    this.notice = notice;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }

  #problem(text) {
    this.#fail(text);
    this.dispatchEvent(new CustomEvent('problem', { detail: text }));
  }

  #fail(message) {
    this.errors.push({ at: Math.round(performance.now()), message });
  }
}
