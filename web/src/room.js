// The screen of the call: tiles, status, controls.

import { byId, element } from './dom.js';
import { keepLaidOut } from './grid.js';
import { showNotice } from './lobby.js';
import { shareLink } from './options.js';
import { Tiles } from './tiles.js';

const TOAST_MS = 6000;
const STATUS = { joined: 'Connected', joining: 'Joining…', reconnecting: 'Reconnecting…', idle: '' };
/** Key of the user's own tile: no peer has an empty id. */
const OWN = '';

export class RoomView {
  #call;
  #media;
  #options;
  #tiles;

  constructor({ call, media, options }) {
    this.#call = call;
    this.#media = media;
    this.#options = options;
    this.#tiles = new Tiles(byId('grid'), {
      firstFrame: () => (call.timing.firstRemoteFrame ??= performance.now()),
      soundBlocked: () => (byId('unblock').hidden = false),
    });
    keepLaidOut(byId('grid'));
    this.#bindControls();
    call.addEventListener('problem', ({ detail }) => toast(detail));
    media.addEventListener('change', () => this.render());
  }

  render() {
    const { state, room, notice, peers } = this.#call;
    if (state !== 'joined' && state !== 'reconnecting') {
      this.#tiles.clear();
      return;
    }
    byId('call-room').textContent = room;
    byId('call-count').textContent = peers.length === 0 ? '' : `${peers.length + 1} people`;
    byId('status').textContent = STATUS[state];
    byId('status').dataset.state = state;
    showNotice(byId('call-notice'), notice);
    byId('alone').hidden = state !== 'joined' || peers.length > 0;
    this.#tiles.render([this.#ownTile(), ...peers.flatMap(peerTiles)]);
  }

  setSpeaking(id, speaking) {
    this.#tiles.setSpeaking(id, speaking);
  }

  #ownTile() {
    const audio = this.#media.of('audio');
    return {
      key: OWN,
      local: true,
      mirrored: true,
      name: this.#call.name,
      note: 'you',
      video: this.#media.of('video').track,
      muted: !audio.on || !audio.track,
    };
  }

  #bindControls() {
    byId('leave').addEventListener('click', () => this.#call.leave());
    byId('share').addEventListener('click', () => this.#share());
    byId('unblock').addEventListener('click', () => {
      byId('unblock').hidden = true;
      this.#tiles.resumeSound();
    });
    const dialog = byId('rename-dialog');
    const field = byId('new-name');
    byId('rename').addEventListener('click', () => {
      field.value = this.#call.name;
      dialog.showModal();
      field.select();
    });
    byId('rename-cancel').addEventListener('click', () => dialog.close());
    byId('rename-form').addEventListener('submit', () => this.#call.rename(field.value.trim()));
  }

  async #share() {
    const link = shareLink(this.#options, this.#call.room);
    try {
      await navigator.clipboard.writeText(link);
      toast('The link to this room is copied.');
    } catch {
      toast(`The link to this room: ${link}`);
    }
  }
}

/** One tile for a peer, and one more for each further picture it sends. */
function peerTiles(peer) {
  const pictures = peer.of('video').filter((consumer) => !consumer.paused);
  const first = {
    key: peer.id,
    name: peer.name,
    video: pictures[0]?.track,
    audios: peer.of('audio').map(({ track }) => track),
    muted: peer.muted,
  };
  const more = pictures.slice(1).map((consumer, index) => ({
    key: `${peer.id} ${consumer.id}`,
    name: peer.name,
    note: `picture ${index + 2}`,
    video: consumer.track,
  }));
  return [first, ...more];
}

/** Says something that needs no answer. */
export function toast(text) {
  const box = element('p', { className: 'toast', textContent: text });
  byId('toasts').append(box);
  setTimeout(() => box.remove(), TOAST_MS);
}
