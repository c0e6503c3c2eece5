// Puts the page together.

import { Call } from './call.js';
import { exposeDiagnostics } from './diagnostics.js';
import { byId } from './dom.js';
import { watchLevels } from './levels.js';
import { bindLobby, renderLobby } from './lobby.js';
import { LocalMedia } from './media.js';
import { readOptions, safeStore } from './options.js';
import { randomId } from './random.js';
import { RoomView, toast } from './room.js';
import { bindSwitches } from './switches.js';

const localStore = safeStore(() => window.localStorage);
const options = readOptions(window.location, localStore, safeStore(() => window.sessionStorage));
options.room ||= randomId(8);

const media = new LocalMedia(options);
const call = new Call(options, media);
const room = new RoomView({ call, media, options });
call.timing.pageLoad = performance.now();
exposeDiagnostics(call, media, options);

function join(roomId, name) {
  localStore.set('name', name);
  const address = new URL(window.location.href);
  address.searchParams.delete('roomId');
  address.searchParams.set('room', roomId);
  window.history.replaceState(null, '', address);
  media.acquire();
  call.join(roomId, name);
}

function showScreen() {
  const inCall = call.state === 'joined' || call.state === 'reconnecting';
  const moved = byId('call').hidden === inCall;
  byId('call').hidden = !inCall;
  byId('lobby').hidden = inCall;
  document.title = inCall ? `${call.room} – Call` : 'Call';
  if (!moved) return;
  byId('rename-dialog').close();
  // The focused button has just disappeared; the keyboard goes on from here.
  if (inCall) byId('grid').focus();
  else byId('join').focus();
}

let renderQueued = false;
/** Renders once per turn, also in a hidden tab, where animation frames stand still. */
function queueRender() {
  if (renderQueued) return;
  renderQueued = true;
  queueMicrotask(() => {
    renderQueued = false;
    showScreen();
    renderLobby(call);
    room.render();
  });
}

let before = call.state;
call.addEventListener('change', () => {
  const wasInCall = before === 'joined' || before === 'reconnecting';
  before = call.state;
  // Whoever is out of the call is not filmed any longer.
  if (call.state === 'idle' && wasInCall) media.release();
  queueRender();
});

let shownProblems = '';
media.addEventListener('change', () => {
  if (call.state === 'idle') return;
  const text = media.problems().join(' ');
  if (text && text !== shownProblems) toast(text);
  shownProblems = text;
});

bindSwitches(media);
bindLobby({ call, media, options, join });
watchLevels(call, (id, speaking) => {
  const peer = call.session?.peers.get(id);
  if (peer) peer.speaking = speaking;
  room.setSpeaking(id, speaking);
});
if (options.joinAtOnce) join(options.room, options.name || 'Guest');
else media.acquire();
