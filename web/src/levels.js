// Who is speaking: polls the sound levels that the browser measures anyway.

const POLL_MS = 150;
/** Level (0–1) above which somebody counts as speaking. */
const THRESHOLD = 0.015;
/** How long somebody still counts as speaking after the last sound. */
const HOLD_MS = 700;

/** Calls `show(id, speaking)` when that changed; the user's own id is `''`. */
export function watchLevels(call, show) {
  const lastHeard = new Map();
  const speaking = new Set();

  const note = (id, level) => {
    const now = performance.now();
    if (level > THRESHOLD) lastHeard.set(id, now);
    const speaks = now - (lastHeard.get(id) ?? -Infinity) < HOLD_MS;
    if (speaks === speaking.has(id)) return;
    if (speaks) speaking.add(id);
    else speaking.delete(id);
    show(id, speaks);
  };

  const poll = async () => {
    for (const peer of call.peers) note(peer.id, Math.max(0, ...peer.of('audio').map(consumerLevel)));
    note('', await producerLevel(call.session?.producers.get('audio')));
    setTimeout(poll, POLL_MS);
  };
  poll();
}

function consumerLevel(consumer) {
  if (consumer.paused) return 0;
  return consumer.rtpReceiver?.getSynchronizationSources()[0]?.audioLevel ?? 0;
}

async function producerLevel(producer) {
  if (!producer || producer.closed || producer.paused) return 0;
  try {
    for (const entry of (await producer.getStats()).values()) {
      if (entry.type === 'media-source') return entry.audioLevel ?? 0;
    }
  } catch {
    // The producer was closed meanwhile.
  }
  return 0;
}
