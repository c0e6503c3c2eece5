// `window.__call`: what the call looks like from inside, for tests and for
// people looking for the cause of a bad call. Read-only; there is no way to act
// on the call through it.
//
//   await __call.stats() → {
//     state,                        see call.js
//     notice: {kind, text} | null,  what the page says about the call
//     room, peerId, name,
//     transports: {send, recv}: {state, bytesSent, bytesReceived, roundTripTime, remote, protocol, local} | null,
//                                   (local: host, srflx, prflx or relay, through TURN)
//     peers: [{id, name, speaking, consumers: [{
//       id, producerId, kind, paused, trackState, codec,
//       packetsReceived, packetsLost, bytesReceived, jitter,          (jitter in s)
//       framesDecoded, framesDropped, frameWidth, frameHeight, keyFramesDecoded, freezeCount,
//       nackCount, pliCount,
//       audioEnergy, concealedSamples, totalSamplesReceived }]}],    (audioEnergy: totalAudioEnergy)
//     producers: [{id, kind, paused, trackState, codec, packetsSent, bytesSent,
//       retransmittedPacketsSent, framesEncoded, frameWidth, frameHeight,
//       nackCount, pliCount, encodings }],                           (sums over all encodings)
//     local: {audio, video}: {on, problem, trackState},
//     timing: {pageLoad, wsOpen, joined, firstRemoteFrame},          (ms since navigation start)
//     errors: [{at, message}]
//   }
//
// A field that the browser does not report is absent.

export function exposeDiagnostics(call, media, options) {
  const stats = async () => {
    const session = call.session;
    const peers = await Promise.all(call.peers.map(peerStats));
    const producers = await Promise.all([...(session?.producers.values() ?? [])].map(producerStats));
    return {
      state: call.state,
      notice: call.notice,
      room: call.room,
      peerId: options.peerId,
      name: call.name,
      transports: {
        send: await transportStats(session?.sendTransport),
        recv: await transportStats(session?.recvTransport),
      },
      peers,
      producers: producers.filter(Boolean),
      local: { audio: localStats(media.of('audio')), video: localStats(media.of('video')) },
      timing: { ...call.timing },
      errors: call.errors.map((error) => ({ ...error })),
    };
  };
  Object.defineProperty(window, '__call', { value: Object.freeze({ stats }) });
}

function localStats({ on, problem, track }) {
  return { on, problem, trackState: track?.readyState ?? null };
}

async function peerStats(peer) {
  const consumers = await Promise.all([...peer.consumers.values()].map(consumerStats));
  return { id: peer.id, name: peer.name, speaking: peer.speaking, consumers: consumers.filter(Boolean) };
}

async function consumerStats(consumer) {
  const report = await reportOf(consumer);
  if (!report) return null;
  const inbound = report.find(({ type }) => type === 'inbound-rtp') ?? {};
  return {
    id: consumer.id,
    producerId: consumer.producerId,
    kind: consumer.kind,
    paused: consumer.paused,
    trackState: consumer.track.readyState,
    codec: codecOf(report, inbound),
    ...pick(inbound, [
      'packetsReceived', 'packetsLost', 'bytesReceived', 'jitter',
      'framesDecoded', 'framesDropped', 'frameWidth', 'frameHeight', 'keyFramesDecoded', 'freezeCount',
      'nackCount', 'pliCount', 'concealedSamples', 'totalSamplesReceived',
    ]),
    audioEnergy: inbound.totalAudioEnergy,
  };
}

async function producerStats(producer) {
  const report = await reportOf(producer);
  if (!report) return null;
  const outbound = report.filter(({ type }) => type === 'outbound-rtp');
  const sum = (field) => outbound.reduce((total, entry) => total + (entry[field] ?? 0), 0);
  const largest = (field) => Math.max(0, ...outbound.map((entry) => entry[field] ?? 0));
  return {
    id: producer.id,
    kind: producer.kind,
    paused: producer.paused,
    trackState: producer.track?.readyState ?? null,
    codec: codecOf(report, outbound[0] ?? {}),
    packetsSent: sum('packetsSent'),
    bytesSent: sum('bytesSent'),
    retransmittedPacketsSent: sum('retransmittedPacketsSent'),
    framesEncoded: sum('framesEncoded'),
    frameWidth: largest('frameWidth'),
    frameHeight: largest('frameHeight'),
    nackCount: sum('nackCount'),
    pliCount: sum('pliCount'),
    encodings: outbound.length,
  };
}

async function transportStats(transport) {
  if (!transport || transport.closed) return null;
  const report = (await reportOf(transport)) ?? [];
  const wire = report.find(({ type }) => type === 'transport') ?? {};
  const pair = report.find(({ type, id, nominated, state }) => type === 'candidate-pair'
    && (id === wire.selectedCandidatePairId || (nominated && state === 'succeeded'))) ?? {};
  const remote = report.find(({ id }) => id === pair.remoteCandidateId);
  const local = report.find(({ id }) => id === pair.localCandidateId);
  return {
    state: transport.connectionState,
    ...pick(pair, ['bytesSent', 'bytesReceived']),
    roundTripTime: pair.currentRoundTripTime,
    remote: remote && `${remote.address}:${remote.port}`,
    protocol: remote?.protocol,
    local: local?.candidateType,
  };
}

/** The entries of a stats report, or `null` when the thing was closed meanwhile. */
async function reportOf(thing) {
  try {
    return [...(await thing.getStats()).values()];
  } catch {
    return null;
  }
}

function codecOf(report, { codecId }) {
  return report.find(({ id }) => id === codecId)?.mimeType;
}

function pick(source, fields) {
  return Object.fromEntries(fields.filter((field) => field in source).map((field) => [field, source[field]]));
}
