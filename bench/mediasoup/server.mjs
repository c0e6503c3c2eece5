// mediasoup with as much of an application as bench/ needs: rooms of the seed dialect, one
// worker, no logs. Says `ready <pid> <url>` and runs until it gets SIGTERM or SIGINT.
//
//   node server.mjs [--port N] [--key FILE --cert FILE] [--uring]
//
// What can be chosen is as the original application has it: transports of their own ports over
// UDP, audio levels each 800 ms, the active speaker each 300 ms, consumers that begin paused,
// replies with RTX; scores, layers and bandwidth are told. --uring takes the other of the
// worker's two ways to send, where the worker has it.
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { parseArgs } from 'node:util';

import * as mediasoup from 'mediasoup';
import protoo from 'protoo-server';

const { values: options } = parseArgs({
  options: {
    port: { type: 'string', default: '4443' },
    key: { type: 'string', default: 'certs/privkey.pem' },
    cert: { type: 'string', default: 'certs/fullchain.pem' },
    uring: { type: 'boolean', default: false },
  },
});

const MEDIA_CODECS = [
  { kind: 'audio', mimeType: 'audio/opus', clockRate: 48000, channels: 2 },
  {
    kind: 'video',
    mimeType: 'video/VP8',
    clockRate: 90000,
    parameters: { 'x-google-start-bitrate': 1000 },
  },
];

const worker = await mediasoup.createWorker({
  logLevel: 'error',
  disableLiburing: !options.uring,
});
worker.on('died', () => process.exit(1));

class Room {
  static all = new Map();

  static of(id) {
    if (!Room.all.has(id)) Room.all.set(id, Room.create(id));
    return Room.all.get(id);
  }

  static async create(id) {
    const room = new Room();
    room.id = id;
    room.protoo = new protoo.Room();
    room.router = await worker.createRouter({ mediaCodecs: MEDIA_CODECS });
    room.levels = await room.router.createAudioLevelObserver({
      maxEntries: 1,
      threshold: -80,
      interval: 800,
    });
    room.levels.on('volumes', ([{ producer, volume }]) =>
      room.tell('activeSpeaker', { peerId: producer.appData.peerId, volume }),
    );
    room.levels.on('silence', () => room.tell('activeSpeaker', { peerId: null }));
    room.speaker = await room.router.createActiveSpeakerObserver({ interval: 300 });
    return room;
  }

  tell(method, data, except) {
    for (const peer of this.joined(except)) peer.notify(method, data).catch(() => {});
  }

  joined(except) {
    return this.protoo.peers.filter((peer) => peer.data.joined && peer !== except);
  }

  enter(id, transport) {
    // protoo-server knows of a request once it is written. A client of the same machine has
    // answered by then, and its answer would count for nothing.
    const send = transport.send.bind(transport);
    transport.send = async (message) => void send(message).catch(() => {});
    const peer = this.protoo.createPeer(id, transport);
    Object.assign(peer.data, {
      joined: false,
      transports: new Map(),
      producers: new Map(),
      consumers: new Map(),
    });
    peer.on('request', (request, accept, reject) => {
      this.handle(peer, request.method, request.data).then(accept, reject);
    });
    peer.on('close', () => {
      for (const one of peer.data.transports.values()) one.close();
      this.tell('peerClosed', { peerId: id }, peer);
      if (this.protoo.peers.length > 0 || this.protoo.closed) return;
      this.protoo.close();
      this.router.close();
      Room.all.delete(this.id);
    });
  }

  async handle(peer, method, data) {
    const found = (map, id) => {
      const one = map.get(id);
      if (!one) throw new Error(`${method}: "${id}" not found`);
      return one;
    };
    switch (method) {
      case 'getRouterRtpCapabilities':
        return this.router.rtpCapabilities;
      case 'join':
        return this.join(peer, data);
      case 'createWebRtcTransport':
        return this.createTransport(peer, data);
      case 'connectWebRtcTransport': {
        const transport = found(peer.data.transports, data.transportId);
        await transport.connect({ dtlsParameters: data.dtlsParameters });
        return {};
      }
      case 'produce':
        return this.produce(peer, found(peer.data.transports, data.transportId), data);
      case 'requestConsumerKeyFrame':
        await found(peer.data.consumers, data.consumerId).requestKeyFrame();
        return {};
      default:
        throw new Error(`unknown request.method "${method}"`);
    }
  }

  async join(peer, { displayName, device, rtpCapabilities }) {
    Object.assign(peer.data, { joined: true, displayName, device, rtpCapabilities });
    const others = this.joined(peer);
    for (const other of others) {
      for (const producer of other.data.producers.values()) this.consume(peer, other, producer);
    }
    this.tell('newPeer', { id: peer.id, displayName, device }, peer);
    const known = ({ id, data }) => ({ id, displayName: data.displayName, device: data.device });
    return { peers: others.map(known) };
  }

  async createTransport(peer, { producing, consuming }) {
    const transport = await this.router.createWebRtcTransport({
      listenInfos: [{ protocol: 'udp', ip: '127.0.0.1' }],
      initialAvailableOutgoingBitrate: 1_000_000,
      appData: { producing, consuming },
    });
    peer.data.transports.set(transport.id, transport);
    if (consuming) {
      await transport.enableTraceEvent(['bwe']);
      transport.on('trace', (trace) =>
        peer
          .notify('downlinkBwe', {
            desiredBitrate: trace.info.desiredBitrate,
            effectiveDesiredBitrate: trace.info.effectiveDesiredBitrate,
            availableBitrate: trace.info.availableBitrate,
          })
          .catch(() => {}),
      );
    }
    const { id, iceParameters, iceCandidates, dtlsParameters } = transport;
    return { id, iceParameters, iceCandidates, dtlsParameters };
  }

  async produce(peer, transport, { kind, rtpParameters, appData }) {
    const producer = await transport.produce({
      kind,
      rtpParameters,
      appData: { ...appData, peerId: peer.id },
    });
    peer.data.producers.set(producer.id, producer);
    producer.on('score', (score) =>
      peer.notify('producerScore', { producerId: producer.id, score }).catch(() => {}),
    );
    for (const other of this.joined(peer)) this.consume(other, peer, producer);
    if (kind === 'audio') {
      await this.levels.addProducer({ producerId: producer.id });
      await this.speaker.addProducer({ producerId: producer.id });
    }
    return { id: producer.id };
  }

  async consume(peer, owner, producer) {
    const transports = [...peer.data.transports.values()];
    const transport = transports.find((one) => one.appData.consuming);
    if (!transport) return;
    try {
      const consumer = await transport.consume({
        producerId: producer.id,
        rtpCapabilities: peer.data.rtpCapabilities,
        enableRtx: true,
        paused: true,
      });
      peer.data.consumers.set(consumer.id, consumer);
      const notify = (method, data) =>
        peer.notify(method, { consumerId: consumer.id, ...data }).catch(() => {});
      consumer.on('transportclose', () => peer.data.consumers.delete(consumer.id));
      consumer.on('producerclose', () => {
        peer.data.consumers.delete(consumer.id);
        notify('consumerClosed');
      });
      consumer.on('score', (score) => notify('consumerScore', { score }));
      consumer.on('layerschange', (layers) => notify('consumerLayersChanged', layers ?? {}));
      const { id, kind, rtpParameters, type, producerPaused } = consumer;
      await peer.request('newConsumer', {
        peerId: owner.id,
        producerId: producer.id,
        id,
        kind,
        rtpParameters,
        type,
        appData: producer.appData,
        producerPaused,
      });
      await consumer.resume();
      notify('consumerScore', { score: consumer.score });
    } catch (error) {
      // Whoever leaves while this goes on is no error.
      if (!peer.closed && !producer.closed) console.error(`consume: ${error}`);
    }
  }
}

const server = https.createServer({
  key: readFileSync(options.key),
  cert: readFileSync(options.cert),
});
const websockets = new protoo.WebSocketServer(server, {
  maxReceivedFrameSize: 960_000,
  maxReceivedMessageSize: 960_000,
  fragmentOutgoingMessages: true,
  fragmentationThreshold: 960_000,
});
websockets.on('connectionrequest', (info, accept, reject) => {
  const query = new URL(info.request.url, 'wss://localhost').searchParams;
  const [room, peer] = [query.get('roomId'), query.get('peerId')];
  if (!room || !peer) return reject(400, 'roomId and peerId are needed');
  Room.of(room)
    .then((one) => one.enter(peer, accept()))
    .catch((error) => reject(500, String(error)));
});
server.listen(Number(options.port), '127.0.0.1', () =>
  console.log(`ready ${process.pid} wss://127.0.0.1:${server.address().port}`),
);
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    worker.close();
    process.exit(0);
  });
}
