// This user's microphone and camera: getting them, losing them, and saying in
// words what is wrong with them.

/**
 * Emits `change` whenever a track, a switch or a problem changed.
 *
 * Each kind ('audio', 'video') has: `on`, what the user wants; `track`, what
 * there is; `problem`, why there is no track although it is wanted.
 */
export class LocalMedia extends EventTarget {
  #resolution;
  #state;

  constructor({ audio, video, resolution }) {
    super();
    this.#resolution = resolution;
    this.#state = {
      audio: { allowed: audio, on: audio, track: null, problem: null, asking: false },
      video: { allowed: video, on: video, track: null, problem: null, asking: false },
    };
  }

  /** A read-only look at one kind. */
  of(kind) {
    return { ...this.#state[kind] };
  }

  /** What is wrong, one sentence or two per trouble; one trouble may concern both kinds. */
  problems() {
    const { audio, video } = this.#state;
    if (audio.problem && audio.problem === forbidden('microphone') && video.problem === forbidden('camera')) {
      return [forbidden('microphone and camera')];
    }
    return [audio.problem, video.problem].filter(Boolean);
  }

  /** Gets whatever is wanted and not there yet. Never rejects. */
  async acquire() {
    const kinds = ['audio', 'video'].filter((kind) => {
      const { allowed, on, track, asking } = this.#state[kind];
      return allowed && on && !track && !asking;
    });
    if (kinds.length === 0) return;
    if (kinds.length === 2 && (await this.#ask(kinds))) return;
    // One missing or forbidden device fails a request for both: ask for each.
    for (const kind of kinds) {
      if (!this.#state[kind].track) await this.#ask([kind]);
    }
  }

  /** Switches one kind. A camera that is off is released; a microphone stays open, silent. */
  async set(kind, on) {
    const state = this.#state[kind];
    if (!state.allowed || state.on === on) return;
    state.on = on;
    if (!on) {
      state.problem = null;
      if (kind === 'video') this.#drop(kind);
    }
    this.#changed();
    if (on) await this.acquire();
  }

  /** Gives the devices back to the system. */
  release() {
    this.#drop('audio');
    this.#drop('video');
    this.#changed();
  }

  async #ask(kinds) {
    const constraints = {};
    for (const kind of kinds) {
      this.#state[kind].asking = true;
      constraints[kind] = kind === 'audio' ? true : this.#cameraConstraints();
    }
    let stream = null;
    let error = null;
    try {
      if (!navigator.mediaDevices) throw new DOMException('', 'SecurityError');
      stream = await navigator.mediaDevices.getUserMedia(constraints);
    } catch (caught) {
      error = caught;
    }
    for (const kind of kinds) {
      const state = this.#state[kind];
      state.asking = false;
      state.problem = error ? describe(kind, error) : null;
    }
    for (const track of stream?.getTracks() ?? []) this.#adopt(track);
    this.#changed();
    return stream !== null;
  }

  #cameraConstraints() {
    const { width, height } = this.#resolution;
    return { width: { ideal: width }, height: { ideal: height }, facingMode: 'user' };
  }

  #adopt(track) {
    const state = this.#state[track.kind];
    // The user may have switched the camera off while the browser was asking.
    if (!state.on && track.kind === 'video') {
      track.stop();
      return;
    }
    state.track = track;
    track.addEventListener('ended', () => {
      if (state.track !== track) return;
      state.track = null;
      state.on = false;
      state.problem = `The ${device(track.kind)} was disconnected.`;
      this.#changed();
    });
  }

  #drop(kind) {
    const state = this.#state[kind];
    state.track?.stop();
    state.track = null;
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }
}

function device(kind) {
  return kind === 'audio' ? 'microphone' : 'camera';
}

function forbidden(what) {
  return `The browser was not allowed to use your ${what}. You can change that in the site settings next to the address.`;
}

function describe(kind, error) {
  const what = device(kind);
  switch (error.name) {
    case 'NotAllowedError':
      return forbidden(what);
    case 'NotFoundError':
    case 'OverconstrainedError':
      return `No ${what} was found.`;
    case 'NotReadableError':
    case 'AbortError':
      return `Your ${what} is in use by another program, or does not start.`;
    case 'SecurityError':
      return `The browser gives out the ${what} over HTTPS only.`;
    default:
      return `Your ${what} does not start: ${error.message || error.name}.`;
  }
}
