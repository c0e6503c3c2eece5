// The tiles of the call: one for the user, one for each other participant, and
// one more for each further picture that a participant sends.

import { element, icon, initials, hueOf } from './dom.js';

/** `events`: `firstFrame()` once per shown remote video, `soundBlocked()`. */
export class Tiles {
  #grid;
  #events;
  #tiles = new Map();

  constructor(grid, events) {
    this.#grid = grid;
    this.#events = events;
  }

  /** Makes the grid show `wanted`: [{key, name, note, video, audios, muted, mirrored, local}]. */
  render(wanted) {
    const keys = new Set(wanted.map(({ key }) => key));
    for (const [key, tile] of this.#tiles) {
      if (keys.has(key)) continue;
      tile.remove();
      this.#tiles.delete(key);
    }
    for (const one of wanted) {
      let tile = this.#tiles.get(one.key);
      if (!tile) {
        tile = new Tile(one, this.#events);
        this.#tiles.set(one.key, tile);
        this.#grid.append(tile.root);
      }
      tile.update(one);
    }
  }

  setSpeaking(key, speaking) {
    this.#tiles.get(key)?.root.classList.toggle('speaking', speaking);
  }

  /** Starts sound that the browser held back until the user did something. */
  resumeSound() {
    for (const tile of this.#tiles.values()) tile.play();
  }

  clear() {
    this.render([]);
  }
}

class Tile {
  #events;
  /** An audio element for each track that is heard. */
  #audios = new Map();
  #video = element('video', { autoplay: true, playsInline: true, muted: true });
  #face = element('span', { className: 'face' });
  #name = element('span', { className: 'who' });
  #muted = icon('mic-off', 'Microphone off');

  constructor({ key, local }, events) {
    this.#events = events;
    this.#video.setAttribute('aria-hidden', 'true');
    this.#face.setAttribute('aria-hidden', 'true');
    const label = element('figcaption', { className: 'label' });
    label.append(this.#muted, this.#name);
    this.root = element('figure', { className: 'tile' });
    this.root.dataset.peer = key;
    this.root.append(this.#face, this.#video, label);
    this.root.classList.toggle('local', Boolean(local));
  }

  update({ name, note, video, audios = [], muted, mirrored, local }) {
    this.#name.textContent = note ? `${name} (${note})` : name;
    this.#face.textContent = initials(name);
    this.root.style.setProperty('--hue', hueOf(name));
    this.#muted.toggleAttribute('hidden', !muted);
    this.root.classList.toggle('mirrored', Boolean(mirrored));
    this.root.classList.toggle('with-video', Boolean(video));
    if (show(this.#video, video) && !local) this.#awaitFirstFrame();
    this.#hear(audios);
  }

  play() {
    for (const audio of this.#audios.values()) this.#start(audio);
  }

  remove() {
    show(this.#video, null);
    this.#hear([]);
    this.root.remove();
  }

  /** Plays exactly these tracks. */
  #hear(tracks) {
    for (const [track, audio] of this.#audios) {
      if (tracks.includes(track)) continue;
      show(audio, null);
      audio.remove();
      this.#audios.delete(track);
    }
    for (const track of tracks) {
      if (this.#audios.has(track)) continue;
      const audio = element('audio', { autoplay: true });
      this.#audios.set(track, audio);
      this.root.append(audio);
      show(audio, track);
      this.#start(audio);
    }
  }

  async #start(audio) {
    try {
      await audio.play();
    } catch (error) {
      // Other errors mean that the track is gone already.
      if (error.name === 'NotAllowedError') this.#events.soundBlocked();
    }
  }

  #awaitFirstFrame() {
    this.#video.addEventListener('loadeddata', () => this.#events.firstFrame(), { once: true });
  }
}

/** Makes a media element play `track`; whether that was a change to a new track. */
function show(media, track) {
  const current = media.srcObject?.getTracks()[0] ?? null;
  if (current === (track ?? null)) return false;
  media.srcObject = track ? new MediaStream([track]) : null;
  return Boolean(track);
}
