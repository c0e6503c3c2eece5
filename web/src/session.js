// One life in a room: from an open signaling connection to its end. A
// reconnection makes a new session; nothing is carried over but the local
// tracks.

import { Device } from 'mediasoup-client';
import { produceOptions } from './encodings.js';
import { RemotePeer } from './peer.js';

/** What a TURN server says to a wrong or expired login (RFC 8489). */
const UNAUTHORIZED = 401;

/**
 * `hooks`: `changed()` after anything visible changed; `problem(text)` when
 * something went wrong that the call survives; `mediaLost(text)` when a
 * transport failed and the session is of no more use.
 */
export class Session {
  #protoo;
  #options;
  #hooks;
  #device = null;
  #closed = false;
  #syncing = null;
  #syncAgain = false;
  /** Consumers still being made, by id: what the server said about them meanwhile. */
  #pending = new Map();

  constructor(protoo, options, hooks) {
    this.#protoo = protoo;
    this.#options = options;
    this.#hooks = hooks;
    this.sendTransport = null;
    this.recvTransport = null;
    /** Remote peers by id, in order of arrival. */
    this.peers = new Map();
    /** mediasoup-client Producers by kind. */
    this.producers = new Map();
    protoo.on('request', (request, accept, reject) => {
      // Nobody waits for the answer of a session that is over.
      const ifOpen = (answer) => (result) => this.#closed || answer(result);
      this.#onRequest(request).then(ifOpen(accept), ifOpen(reject));
    });
    protoo.on('notification', ({ method, data }) => this.#onNotification(method, data ?? {}));
  }

  /** Enters the room. Rejects with what the server or the browser said. */
  async join(displayName) {
    const routerRtpCapabilities = await this.#protoo.request('getRouterRtpCapabilities');
    this.#device = await Device.factory();
    await this.#device.load({ routerRtpCapabilities });

    const { audio, video } = this.#options;
    [this.sendTransport, this.recvTransport] = await Promise.all([
      audio || video ? this.#createTransport('send') : null,
      this.#createTransport('recv'),
    ]);
    const { peers } = await this.#protoo.request('join', {
      displayName,
      device: browserDevice(this.#device.handlerName),
      rtpCapabilities: this.#device.recvRtpCapabilities,
      sctpCapabilities: undefined,
    });
    for (const peer of peers) this.#peer(peer.id, peer);
    this.#hooks.changed();
  }

  /** Makes what is sent match `media`. Calls may overlap; the last state wins. */
  sync(media) {
    this.#syncAgain = true;
    this.#syncing ??= this.#syncUntilClean(media).finally(() => {
      this.#syncing = null;
    });
    return this.#syncing;
  }

  rename(displayName) {
    return this.#protoo.request('changeDisplayName', { displayName });
  }

  /** Drops every transport, and with them producers and consumers. */
  close() {
    this.#closed = true;
    this.sendTransport?.close();
    this.recvTransport?.close();
    this.peers.clear();
    this.producers.clear();
  }

  async #createTransport(direction) {
    const sending = direction === 'send';
    const { id, iceParameters, iceCandidates, dtlsParameters, sctpParameters, iceServers } =
      await this.#protoo.request('createWebRtcTransport', {
        forceTcp: this.#options.forceTcp,
        producing: sending,
        consuming: !sending,
        sctpCapabilities: undefined,
      });
    const create = sending ? 'createSendTransport' : 'createRecvTransport';
    const transport = this.#device[create]({
      id,
      iceParameters,
      iceCandidates,
      dtlsParameters: { ...dtlsParameters, role: 'auto' },
      sctpParameters,
      iceServers: iceServers?.length ? iceServers : undefined,
      iceTransportPolicy: this.#options.relay ? 'relay' : undefined,
    });
    if (this.#options.relay && !iceServers?.length) {
      this.#hooks.problem('This page is to use the TURN server alone, but the server offers none.');
    }
    transport.on('icecandidateerror', (event) => {
      // Other codes are of networks of this machine that do not lead there.
      if (event.errorCode !== UNAUTHORIZED) return;
      this.#hooks.problem(`The TURN server ${event.url} refused the login that the server gave (401 ${event.errorText}).`);
    });
    transport.on('connect', ({ dtlsParameters: ours }, done, failed) => {
      this.#protoo
        .request('connectWebRtcTransport', { transportId: id, dtlsParameters: ours })
        .then(done, failed);
    });
    transport.on('produce', ({ kind, rtpParameters, appData }, done, failed) => {
      this.#protoo
        .request('produce', { transportId: id, kind, rtpParameters, appData })
        .then(done, failed);
    });
    transport.on('connectionstatechange', (state) => {
      if (state === 'failed') this.#hooks.mediaLost('No media path to the server: its media ports cannot be reached.');
      this.#hooks.changed();
    });
    return transport;
  }

  async #syncUntilClean(media) {
    while (this.#syncAgain && !this.#closed && this.sendTransport) {
      this.#syncAgain = false;
      for (const kind of ['audio', 'video']) {
        try {
          await this.#syncKind(kind, media.of(kind));
        } catch (error) {
          if (this.#closed) return;
          const what = kind === 'audio' ? 'sound' : 'picture';
          this.#hooks.problem(`Your ${what} could not be sent: ${error.message}`);
        }
      }
      this.#hooks.changed();
    }
  }

  async #syncKind(kind, { on, track }) {
    let producer = this.producers.get(kind);
    if (producer && !track) {
      this.producers.delete(kind);
      producer.close();
      await this.#protoo.request('closeProducer', { producerId: producer.id });
      return;
    }
    if (!track) return;
    if (!producer) {
      if (!on) return;
      producer = await this.sendTransport.produce(produceOptions(track, this.#device, this.#options));
      this.producers.set(kind, producer);
    } else if (producer.track !== track) {
      await producer.replaceTrack({ track });
    }
    if (on && producer.paused) {
      await this.#protoo.request('resumeProducer', { producerId: producer.id });
      producer.resume();
    } else if (!on && !producer.paused) {
      // First here, so that not a word is sent after the click.
      producer.pause();
      await this.#protoo.request('pauseProducer', { producerId: producer.id });
    }
  }

  async #onRequest({ method, data }) {
    // The chat of other clients, and the bot, come as newDataConsumer, which this page
    // has no place for: declining it is all that the server wants to hear.
    if (method !== 'newConsumer') throw new Error(`This page does not know the request "${method}".`);
    const { peerId, producerId, id, kind, rtpParameters, appData, producerPaused } = data;
    const news = { peerId, closed: false, paused: producerPaused };
    this.#pending.set(id, news);
    let consumer;
    try {
      const options = { id, producerId, kind, rtpParameters, appData: { ...appData, peerId } };
      consumer = await this.recvTransport.consume(options);
    } finally {
      this.#pending.delete(id);
    }
    if (this.#closed || news.closed) {
      consumer.close();
      return;
    }
    if (news.paused) consumer.pause();
    this.#peer(peerId).consumers.set(id, consumer);
    this.#hooks.changed();
  }

  #onNotification(method, data) {
    switch (method) {
      case 'newPeer':
        this.#peer(data.id, data);
        break;
      case 'peerClosed':
      case 'peerLeft':
        this.#removePeer(data.peerId);
        break;
      case 'peerDisplayNameChanged':
        this.#peer(data.peerId).name = data.displayName;
        break;
      case 'consumerClosed':
        this.#closeConsumer(data.consumerId);
        break;
      case 'consumerPaused':
        this.#setPaused(data.consumerId, true);
        break;
      case 'consumerResumed':
        this.#setPaused(data.consumerId, false);
        break;
      default:
        return;
    }
    this.#hooks.changed();
  }

  /** The peer with this id; made when it is not known yet. */
  #peer(id, info = {}) {
    let peer = this.peers.get(id);
    if (!peer) {
      peer = new RemotePeer({ ...info, id });
      this.peers.set(id, peer);
    } else if (info.displayName) {
      peer.name = info.displayName;
      peer.device = info.device ?? peer.device;
    }
    return peer;
  }

  #removePeer(id) {
    for (const news of this.#pending.values()) {
      if (news.peerId === id) news.closed = true;
    }
    for (const consumer of this.peers.get(id)?.consumers.values() ?? []) consumer.close();
    this.peers.delete(id);
  }

  #closeConsumer(id) {
    const news = this.#pending.get(id);
    if (news) news.closed = true;
    const consumer = this.#consumer(id);
    if (!consumer) return;
    consumer.close();
    this.peers.get(consumer.appData.peerId)?.consumers.delete(id);
  }

  #setPaused(id, paused) {
    const news = this.#pending.get(id);
    if (news) news.paused = paused;
    const consumer = this.#consumer(id);
    if (paused) consumer?.pause();
    else consumer?.resume();
  }

  #consumer(id) {
    for (const peer of this.peers.values()) {
      const consumer = peer.consumers.get(id);
      if (consumer) return consumer;
    }
    return undefined;
  }
}

/** What the others are told about this browser. */
function browserDevice(handlerName) {
  const brands = [
    ['edge', /\bEdg\/([\d.]+)/],
    ['firefox', /\bFirefox\/([\d.]+)/],
    ['chrome', /\bChrom(?:e|ium)\/([\d.]+)/],
    ['safari', /\bVersion\/([\d.]+).*Safari/],
  ];
  for (const [flag, pattern] of brands) {
    const version = pattern.exec(navigator.userAgent)?.[1];
    if (version) return { flag, name: flag[0].toUpperCase() + flag.slice(1), version };
  }
  return { flag: 'unknown', name: handlerName, version: '' };
}
