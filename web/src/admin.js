// The admin page: workers as bars over cores, rooms, and for one room who sends
// what to whom. Plain JavaScript, so that it needs no build. It asks for what it
// shows every two seconds, and only while it is looked at.

const POLL_MS = 2000;
/** Most rooms in the table; the field above it finds the others. */
const MAX_ROWS = 200;
const TOKEN = 'webrtc-server-admin-token';

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; text is never read as HTML. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

function button(text, action, kind = '') {
  const made = element('button', { type: 'button', class: kind }, text);
  made.addEventListener('click', action);
  return made;
}

// --- Numbers

const SCALE = ['', ' k', ' M', ' G'];

/** 12345 → "12.3 k". */
function short(value, unit) {
  let step = 0;
  while (value >= 1000 && step < SCALE.length - 1) [value, step] = [value / 1000, step + 1];
  const digits = step > 0 && value < 100 ? 1 : 0;
  return `${value.toFixed(digits)}${SCALE[step] || ' '}${unit}`.trim();
}

const bits = (bytes) => short(bytes * 8, 'bit/s');

/** 2 → "2 rooms". */
const counted = (number, what) => `${number} ${what}${number === 1 ? '' : 's'}`;

function age(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

// --- The server

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, method = 'GET') {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { method, headers, cache: 'no-store' });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body.error ?? `HTTP ${answer.status}`);
  return body;
}

const roomPath = (room) => `/admin/rooms/${encodeURIComponent(room)}`;

/** The room that the address names. */
function chosenRoom() {
  const match = /^#room=(.+)$/.exec(location.hash);
  try {
    return match ? decodeURIComponent(match[1]) : null;
  } catch {
    return null;
  }
}

/** Asks for a yes, then does it and shows what it led to. */
async function confirmed(text, verb, act) {
  const dialog = byId('confirm');
  byId('confirm-text').textContent = text;
  byId('confirm-yes').textContent = verb;
  dialog.returnValue = 'no';
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener('close', done, { once: true }));
  if (dialog.returnValue !== 'yes') return;
  try {
    await act();
  } catch (error) {
    tell(error);
  }
  await refresh();
}

function tell(error) {
  byId('problem').hidden = !error;
  byId('problem').textContent = error ? error.message : '';
}

// --- Workers

function facts(pairs) {
  const list = element('dl', {});
  for (const [name, value] of pairs) list.append(element('dt', {}, name), element('dd', {}, value));
  return list;
}

function workerCard(worker) {
  const { index, load, stats, state, draining } = worker;
  const cpu = load?.cpuPercent ?? 0;
  const core = worker.cpu === null ? 'unpinned' : `core ${worker.cpu}`;
  const heat = cpu >= 85 ? 'hot' : cpu >= 60 ? 'warm' : 'cool';
  const fill = element('span', {});
  fill.style.setProperty('--load', Math.min(cpu, 100));
  const bar = element(
    'div',
    {
      class: 'bar',
      role: 'meter',
      'aria-label': `CPU of worker ${index}`,
      'aria-valuemin': 0,
      'aria-valuemax': 100,
      'aria-valuenow': Math.min(cpu, 100),
      'data-heat': heat,
    },
    fill,
  );
  const dropped = Object.values(stats?.droppedByReason ?? {}).reduce((a, b) => a + b, 0);
  const rows = [
    ['CPU', `${cpu.toFixed(1)} %`],
    ['Rooms', worker.rooms],
    ['Transports', stats?.transports ?? '–'],
    ['Producers, consumers', stats ? `${stats.producers}, ${stats.consumers}` : '–'],
    ['In', load ? `${bits(load.bytesInPerSecond)}, ${short(load.packetsInPerSecond, 'p/s')}` : '–'],
    ['Out', load ? `${bits(load.bytesOutPerSecond)}, ${short(load.packetsOutPerSecond, 'p/s')}` : '–'],
    ['Dropped', dropped],
    ['Memory', stats ? short(stats.rssBytes, 'B') : '–'],
    ['Ports', `${worker.minPort}–${worker.maxPort}`],
    ['Up', worker.uptimeSeconds === null ? '–' : age(worker.uptimeSeconds)],
    ['Restarts', worker.restarts],
  ];
  const card = element(
    'li',
    { 'data-worker': index },
    element(
      'div',
      { class: 'head' },
      element('span', {}, `Worker ${index} · ${core}`),
      element('span', { class: 'state', 'data-state': state }, draining && state !== 'draining' ? `${state}, draining` : state),
    ),
    bar,
    facts(rows.map(([name, value]) => [name, String(value)])),
  );
  if (worker.lastExit) {
    const lines = worker.lastExit.lastLines.map((line) => element('p', {}, line));
    const when = new Date(worker.lastExit.at).toLocaleString();
    const summary = element('summary', {}, `Ended last: ${worker.lastExit.reason}`);
    card.append(element('details', { 'data-key': `exit${index}` }, summary, element('p', {}, when), ...lines));
  }
  if (!draining) {
    const text = `Replace worker ${index}? It takes no more rooms; those that are left when its time is over move to other workers.`;
    const drain = () => confirmed(text, 'Replace', () => ask(`/admin/workers/${index}/drain`, 'POST'));
    card.append(button('Replace…', drain));
  }
  return card;
}

// --- Rooms

function row(labels, cells) {
  return element('tr', {}, ...cells.map((cell, n) => element('td', { 'data-label': labels[n] }, cell)));
}

const ROOM_LABELS = ['Room', 'Worker', 'Peers', 'Sent', 'Received', 'Age'];

function showRooms(rooms) {
  const wanted = byId('filter').value.trim().toLowerCase();
  const found = rooms.filter((room) => room.id.toLowerCase().includes(wanted));
  const rows = found.slice(0, MAX_ROWS).map((room) => {
    const link = element('a', { href: `#room=${encodeURIComponent(room.id)}` }, room.id);
    const cells = [link, room.worker, room.peers, room.producers, room.consumers, age(room.ageSeconds)];
    return row(ROOM_LABELS, cells.map((cell) => (cell instanceof Node ? cell : String(cell))));
  });
  replace(byId('rooms').tBodies[0], rows);
  const hidden = found.length - rows.length;
  const none = rooms.length === 0 ? 'Nobody is here.' : 'No room has that in its name.';
  byId('rooms-note').textContent = rows.length === 0 ? none : hidden > 0 ? `${hidden} more.` : '';
}

// --- One room

const STREAM_LABELS = ['From', 'Kind', 'Layer', 'Bitrate', 'Loss', 'Score', 'Why'];

function layerOf(consumer) {
  const layers = consumer.explanation?.currentLayers ?? consumer.layers;
  if (layers) {
    const { spatialLayer, temporalLayer } = layers;
    return temporalLayer === null ? `S${spatialLayer}` : `S${spatialLayer} T${temporalLayer}`;
  }
  return consumer.kind === 'video' && consumer.type !== 'simple' ? 'none' : '–';
}

/** Why the client gets what it gets, as far as is known. */
function reasons(consumer) {
  const { explanation, stats } = consumer;
  const told = [];
  if (explanation?.reason) told.push(explanation.reason);
  if (consumer.paused) told.push('The client has paused it.');
  if (consumer.producerPaused) told.push('Its sender has paused it.');
  if (!stats) told.push('The worker tells no numbers of it.');
  else {
    if (stats.producerScore !== null && stats.producerScore < 7) {
      told.push(`It arrives at the server with trouble already (score ${stats.producerScore} of 10).`);
    }
    if (stats.lossPercent > 2) told.push(`The client loses ${stats.lossPercent} % of it.`);
    if (stats.bitrate === 0 && told.length === 0) told.push('Nothing is sent at the moment.');
  }
  if (explanation?.preferredLayers) {
    const { spatialLayer, temporalLayer } = explanation.preferredLayers;
    const temporal = temporalLayer === null ? '' : ` T${temporalLayer}`;
    told.push(`The client wants S${spatialLayer}${temporal} at most.`);
  }
  if (explanation?.availableBitrate) {
    told.push(`Its transport can send ${short(explanation.availableBitrate, 'bit/s')}.`);
  }
  return told.length > 0 ? told : ['Nothing is in its way.'];
}

function streamRow(consumer) {
  const { stats } = consumer;
  const details = element(
    'details',
    { 'data-key': consumer.id },
    element('summary', {}, 'Why'),
    ...reasons(consumer).map((text) => element('p', {}, text)),
    element('p', { class: 'dim' }, `Consumer ${consumer.id} on transport ${consumer.transportId}`),
  );
  return row(STREAM_LABELS, [
    consumer.peerId ?? '–',
    consumer.kind ?? '–',
    layerOf(consumer),
    stats ? short(stats.bitrate, 'bit/s') : '–',
    stats ? `${stats.lossPercent} %` : '–',
    stats ? `${stats.score}` : '–',
    details,
  ]);
}

function sentText(producer) {
  const streams = (producer.stats ?? []).map(
    (stream) => `${stream.rid ? `${stream.rid} ` : ''}${short(stream.bitrate, 'bit/s')}, loss ${stream.lossPercent} %, score ${stream.score}`,
  );
  const state = producer.paused ? 'paused' : streams.join('; ') || 'no numbers';
  return `Sends ${producer.kind} (${producer.type}): ${state}`;
}

function memberCard(room, member) {
  const what = member.broadcaster ? 'broadcaster' : member.joined ? 'peer' : 'not joined';
  const title = member.displayName ? `${member.displayName} (${member.id})` : member.id;
  const text = `Put ${member.id} out of ${room}? It does not come back by itself.`;
  const path = `${roomPath(room)}/peers/${encodeURIComponent(member.id)}`;
  const remove = () => confirmed(text, 'Put out', () => ask(path, 'DELETE'));
  const device = [member.device?.name, member.device?.version].filter(Boolean).join(' ');
  const card = element(
    'article',
    { class: 'member', 'data-peer': member.id },
    element('div', { class: 'head' }, element('h3', {}, title), button('Put out…', remove, 'danger')),
    element('p', { class: 'dim' }, [what, device, member.address].filter(Boolean).join(' · ')),
    ...member.producers.map((producer) => element('p', {}, sentText(producer))),
  );
  if (member.consumers.length > 0) {
    const head = element('tr', {}, ...STREAM_LABELS.map((label) => element('th', { scope: 'col' }, label)));
    const body = element('tbody', {}, ...member.consumers.map(streamRow));
    card.append(element('table', {}, element('thead', {}, head), body));
  }
  return card;
}

function showRoom(room) {
  byId('room-title').textContent = `Room ${room.id}`;
  const told = [
    `worker ${room.worker}`,
    `${room.peers} of ${room.maxPeers} peers`,
    room.broadcasters > 0 ? `${room.broadcasters} broadcasters` : '',
    age(room.ageSeconds),
    room.webhook ? 'with webhook' : '',
  ];
  byId('room-facts').textContent = told.filter(Boolean).join(' · ');
  replace(byId('members'), room.members.map((member) => memberCard(room.id, member)));
}

// --- The page

/** What is open, and where the keyboard is, stays so when what is shown is replaced. */
function replace(container, children) {
  const open = new Set([...container.querySelectorAll('details[open]')].map((it) => it.dataset.key));
  const focusable = 'a, button, summary';
  const before = [...container.querySelectorAll(focusable)];
  const focused = before.indexOf(document.activeElement);
  container.replaceChildren(...children);
  for (const details of container.querySelectorAll('details')) {
    details.open = open.has(details.dataset.key);
  }
  if (focused >= 0) container.querySelectorAll(focusable)[focused]?.focus({ preventScroll: true });
}

async function refresh() {
  const chosen = chosenRoom();
  try {
    const [{ workers }, { rooms }, room] = await Promise.all([
      ask('/admin/workers'),
      ask('/admin/rooms'),
      chosen === null ? null : ask(roomPath(chosen)),
    ]);
    const peers = rooms.reduce((sum, it) => sum + it.peers, 0);
    const ready = workers.filter((worker) => worker.ready).length;
    byId('totals').textContent = `${ready} of ${counted(workers.length, 'worker')} ready · ${counted(rooms.length, 'room')} · ${counted(peers, 'peer')}`;
    replace(byId('workers'), workers.map(workerCard));
    byId('rooms-section').hidden = room !== null;
    byId('room-section').hidden = room === null;
    if (room) showRoom(room);
    else showRooms(rooms);
    byId('content').hidden = false;
    byId('login').hidden = true;
    tell(null);
  } catch (error) {
    if (error.status === 404 && chosen !== null && chosenRoom() === chosen) {
      location.hash = '';
    } else if (error.status === 401) {
      const first = byId('login').hidden;
      byId('content').hidden = true;
      byId('login').hidden = false;
      tell(sessionStorage.getItem(TOKEN) ? new Error('That is not the token.') : null);
      sessionStorage.removeItem(TOKEN);
      if (first) byId('token').focus();
    } else {
      tell(error instanceof Refused ? error : new Error('The server does not answer.'));
    }
  }
}

let timer = 0;

/** Now, and again and again while the page is looked at. */
async function poll() {
  clearTimeout(timer);
  await refresh();
  clearTimeout(timer);
  const waits = document.hidden || !byId('login').hidden;
  if (!waits) timer = setTimeout(poll, POLL_MS);
}

byId('login').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId('token').value.trim());
  byId('token').value = '';
  poll();
});
byId('filter').addEventListener('input', poll);
byId('close-room').addEventListener('click', () => {
  const room = chosenRoom();
  if (room === null) return;
  const text = `Close room ${room}? Everybody in it is put out and does not come back by itself.`;
  confirmed(text, 'Close', () => ask(roomPath(room), 'DELETE'));
});
window.addEventListener('hashchange', poll);
document.addEventListener('visibilitychange', poll);
poll();
