// What the page's address asks for:
//
//   room, roomId      room to join; a random one when absent
//   name              name to show to the others
//   peerId            identity in the room; normally random, one per tab
//   join=1            join at once, without the first screen
//   produce=0         receive only
//   audio=0, video=0  do not send that kind
//   codec=vp8|h264|…  video codec to send; the first that the server has when absent
//   simulcast=1       send the video in three sizes
//   forceTcp=1        reach the server over TCP alone, as from networks without UDP
//   relay=1           reach the server through its TURN server alone, to try that out
//   resolution=       hd (1280×720, the default), vga (640×480) or qvga (320×240)

import { randomId } from './random.js';

const RESOLUTIONS = {
  hd: { width: 1280, height: 720 },
  vga: { width: 640, height: 480 },
  qvga: { width: 320, height: 240 },
};

/** Longest room id or peer id that the server accepts. */
const MAX_ID_LENGTH = 128;

export function readOptions(location, localStore, tabStore) {
  const query = new URLSearchParams(location.search);
  const off = (key) => ['0', 'no', 'false'].includes(query.get(key));
  const on = (key) => ['1', 'yes', 'true'].includes(query.get(key));
  const produce = !off('produce');
  return {
    host: location.host,
    origin: location.origin,
    room: query.get('room') || query.get('roomId') || '',
    name: query.get('name') || localStore.get('name') || '',
    peerId: query.get('peerId') || tabPeerId(tabStore),
    joinAtOnce: on('join'),
    audio: produce && !off('audio'),
    video: produce && !off('video'),
    codec: (query.get('codec') || '').toLowerCase(),
    simulcast: on('simulcast'),
    forceTcp: on('forceTcp'),
    relay: on('relay'),
    resolution: RESOLUTIONS[query.get('resolution')] ?? RESOLUTIONS.hd,
  };
}

/**
 * An identity that lives as long as the tab: a reloaded page takes over its own
 * place in the room instead of needing a second one.
 */
function tabPeerId(tabStore) {
  const id = tabStore.get('peerId') || randomId(12);
  tabStore.set('peerId', id);
  return id;
}

/** Why this room name cannot be used, or `null`. */
export function roomProblem(room) {
  if (!room) return 'Give the room a name.';
  if (room.length > MAX_ID_LENGTH) return `A room name has at most ${MAX_ID_LENGTH} characters.`;
  return null;
}

/** The address that brings somebody else into this room. */
export function shareLink(options, room) {
  return `${options.origin}/?room=${encodeURIComponent(room)}`;
}

/** Storage that works, without memory, where the browser forbids it. */
export function safeStore(getStorage) {
  return {
    get(key) {
      try {
        return getStorage().getItem(key) ?? '';
      } catch {
        return '';
      }
    },
    set(key, value) {
      try {
        getStorage().setItem(key, value);
      } catch {
        // Private windows may refuse; the value is then asked for again.
      }
    },
  };
}
