// A participant of a room in the seed dialect, after mediasoup-demo's RoomClient:
// the same requests in the same order, whatever version of mediasoup-client runs
// below. The page (page.mjs) and the Node client (aiortc.mjs) share it.

/** Data channel messages kept; a test sends a handful. */
const MAX_MESSAGES = 1000;

export class Participant {
  /**
   * `protoo`: the protoo-client module. `createDevice`: makes a mediasoup Device.
   * `onConsumer`: called with each new consumer before it is accepted.
   */
  constructor({ protoo, createDevice, onConsumer = () => {} }) {
    this.protoo = protoo;
    this.createDevice = createDevice;
    this.onConsumer = onConsumer;
    this.consumers = new Map();
    this.dataConsumers = new Map();
    this.producers = new Map();
    this.dataProducers = new Map();
    this.peers = new Map();
    this.messages = [];
    /** How often each notification came. */
    this.notifications = {};
    /** What went wrong without a caller to be told. */
    this.problems = [];
  }

  /** Connects and joins. */
  async join({ url, displayName }) {
    this.peer = new this.protoo.Peer(new this.protoo.WebSocketTransport(url));
    this.peer.on('request', (request, accept, reject) => this.#request(request, accept, reject));
    this.peer.on('notification', (notification) => this.#notification(notification));
    await new Promise((open, failed) => {
      this.peer.on('open', open);
      this.peer.on('failed', () => failed(new Error(`no connection to ${url}`)));
    });
    this.device = await this.createDevice();
    const routerRtpCapabilities = await this.peer.request('getRouterRtpCapabilities');
    await this.device.load({ routerRtpCapabilities });
    this.sendDevice = await this.sendingDevice(routerRtpCapabilities);
    this.sendTransport = await this.#createTransport('send');
    this.recvTransport = await this.#createTransport('recv');
    const { peers } = await this.peer.request('join', {
      displayName,
      device: { flag: 'test', name: 'foreign client', version: '1' },
      rtpCapabilities: this.#recvRtpCapabilities(),
      sctpCapabilities: this.#sctpCapabilities(),
    });
    for (const peer of peers) this.peers.set(peer.id, peer);
    return { peers, handler: this.device.handlerName };
  }

  /** The device that makes the sending transport: the only one there is. */
  async sendingDevice() {
    return this.device;
  }

  /** Newer versions call it recvRtpCapabilities, older ones rtpCapabilities. */
  #recvRtpCapabilities() {
    return this.device.recvRtpCapabilities ?? this.device.rtpCapabilities;
  }

  /** undefined in newer versions, which want data channels all the same. */
  #sctpCapabilities() {
    return this.device.sctpCapabilities;
  }

  async #createTransport(direction) {
    const sending = direction === 'send';
    const { id, iceParameters, iceCandidates, dtlsParameters, sctpParameters } =
      await this.peer.request('createWebRtcTransport', {
        forceTcp: false,
        producing: sending,
        consuming: !sending,
        sctpCapabilities: this.#sctpCapabilities(),
      });
    const options = {
      id,
      iceParameters,
      iceCandidates,
      dtlsParameters: sending ? { ...dtlsParameters, role: 'auto' } : dtlsParameters,
      sctpParameters,
      iceServers: [],
    };
    const transport = sending
      ? this.sendDevice.createSendTransport(options)
      : this.device.createRecvTransport(options);
    transport.on('connect', ({ dtlsParameters: own }, callback, errback) => {
      const data = { transportId: transport.id, dtlsParameters: own };
      this.peer.request('connectWebRtcTransport', data).then(callback, errback);
    });
    transport.on('produce', ({ kind, rtpParameters, appData }, callback, errback) => {
      const data = { transportId: transport.id, kind, rtpParameters, appData };
      this.peer.request('produce', data).then(callback, errback);
    });
    transport.on('producedata', (parameters, callback, errback) => {
      const { sctpStreamParameters, label, protocol, appData } = parameters;
      const data = { transportId: transport.id, sctpStreamParameters, label, protocol, appData };
      this.peer.request('produceData', data).then(callback, errback);
    });
    return transport;
  }

  async produce(options) {
    const producer = await this.sendTransport.produce(options);
    this.producers.set(producer.kind, producer);
    return producer.rtpParameters;
  }

  /** Pauses or resumes a producer here and on the server. */
  async setPaused({ kind, paused }) {
    const producer = this.producers.get(kind);
    if (paused) producer.pause();
    else producer.resume();
    const method = paused ? 'pauseProducer' : 'resumeProducer';
    await this.peer.request(method, { producerId: producer.id });
  }

  /** Asks for a spatial layer of a peer's video. */
  async prefer({ peerId, spatialLayer }) {
    const all = [...this.consumers.values()];
    const { consumer } = all.find((it) => it.peerId === peerId && it.consumer.kind === 'video');
    await this.peer.request('setConsumerPreferredLayers', { consumerId: consumer.id, spatialLayer });
  }

  async restartIce() {
    for (const transport of [this.sendTransport, this.recvTransport]) {
      const iceParameters = await this.peer.request('restartIce', { transportId: transport.id });
      await transport.restartIce({ iceParameters });
    }
  }

  /** The data producers of mediasoup-demo, with its options. */
  async produceData() {
    await this.#produceData({ label: 'chat', ordered: false, maxRetransmits: 1 });
    await this.#produceData({ label: 'bot', ordered: false, maxPacketLifeTime: 2000 });
  }

  async #produceData({ label, ...options }) {
    const appData = { info: `my-${label}-DataProducer` };
    const producer = await this.sendTransport.produceData({ label, ...options, appData });
    producer.on('error', (error) => this.problems.push(`data producer ${label}: ${error}`));
    if (producer.readyState !== 'open') await new Promise((open) => producer.on('open', open));
    this.dataProducers.set(label, producer);
  }

  /** Sends a text; `bytes`: this many bytes of zeros instead. */
  say({ label, text, bytes }) {
    this.dataProducers.get(label).send(bytes === undefined ? text : new ArrayBuffer(bytes));
  }

  async #request({ method, data }, accept, reject) {
    try {
      if (method === 'newConsumer') await this.#newConsumer(data);
      else if (method === 'newDataConsumer') await this.#newDataConsumer(data);
      else throw new Error(`unexpected request ${method}`);
      accept();
    } catch (error) {
      this.problems.push(`${method}: ${error.stack ?? error}`);
      reject(error);
    }
  }

  async #newConsumer({ peerId, producerId, id, kind, rtpParameters, appData, producerPaused }) {
    const consumer = await this.recvTransport.consume({
      id,
      producerId,
      kind,
      rtpParameters,
      streamId: `${peerId}-mic-webcam`,
      appData: { ...appData, peerId },
    });
    this.consumers.set(id, { consumer, peerId, paused: producerPaused });
    await this.onConsumer(consumer, peerId);
  }

  async #newDataConsumer({ peerId, dataProducerId, id, sctpStreamParameters, label, protocol, appData }) {
    const consumer = await this.recvTransport.consumeData({
      id,
      dataProducerId,
      sctpStreamParameters,
      label,
      protocol,
      appData: { ...appData, peerId },
    });
    this.dataConsumers.set(id, { consumer, peerId, label });
    consumer.on('error', (error) => this.problems.push(`data consumer ${label}: ${error}`));
    consumer.on('message', (message) => {
      if (this.messages.length >= MAX_MESSAGES) return;
      const text = typeof message === 'string' ? message : null;
      const bytes = text === null ? (message.byteLength ?? message.size) : null;
      this.messages.push({ peerId, label, text, bytes });
    });
  }

  #notification({ method, data }) {
    this.notifications[method] = (this.notifications[method] ?? 0) + 1;
    const entry = this.consumers.get(data.consumerId);
    switch (method) {
      case 'newPeer':
        this.peers.set(data.id, data);
        break;
      case 'peerClosed':
        this.peers.delete(data.peerId);
        break;
      case 'consumerClosed':
        this.consumers.delete(data.consumerId);
        entry?.consumer.close();
        break;
      case 'consumerPaused':
      case 'consumerResumed':
        if (entry) entry.paused = method === 'consumerPaused';
        break;
      case 'consumerLayersChanged':
        if (entry) entry.spatialLayer = data.spatialLayer;
        break;
      case 'dataConsumerClosed':
        this.dataConsumers.get(data.dataConsumerId)?.consumer.close();
        this.dataConsumers.delete(data.dataConsumerId);
        break;
    }
  }

  /** What arrives: a plain value for the test. */
  async stats() {
    const consumers = [];
    for (const { consumer, peerId, paused, spatialLayer } of this.consumers.values()) {
      const received = await this.received(consumer);
      consumers.push({ peerId, kind: consumer.kind, paused, spatialLayer, ...received });
    }
    return {
      peers: [...this.peers.keys()],
      consumers,
      dataConsumers: [...this.dataConsumers.values()].map(({ peerId, label }) => ({ peerId, label })),
      messages: this.messages,
      notifications: this.notifications,
      problems: this.problems,
      connection: [this.sendTransport?.connectionState, this.recvTransport?.connectionState],
    };
  }

  /** Codec and inbound-rtp statistics; fields that the client does not have are 0. */
  async received(consumer) {
    const { codecs } = consumer.rtpParameters;
    const result = { codec: codecs[0].mimeType, packets: 0, frames: 0, width: 0, energy: 0 };
    for (const report of (await consumer.getStats()).values()) {
      if (report.type !== 'inbound-rtp') continue;
      result.packets += report.packetsReceived ?? 0;
      result.frames += report.framesDecoded ?? 0;
      result.width = report.frameWidth ?? 0;
      result.energy += report.totalAudioEnergy ?? 0;
    }
    return result;
  }

  leave() {
    this.peer?.close();
    this.sendTransport?.close();
    this.recvTransport?.close();
  }
}
