// A participant that runs mediasoup-client in Node over mediasoup-client-aiortc,
// which drives a Python process (environment: PYTHON). It sends back what it
// receives, decoded and encoded again: whoever sees its picture knows that it has
// seen theirs. Commands: lines.mjs; methods: participant.mjs.

import * as mediasoupClient from 'mediasoup-client';
import { createWorker } from 'mediasoup-client-aiortc';
import protoo from 'protoo-client';
import { Participant } from './participant.mjs';
import { serve } from './lines.mjs';

const worker = await createWorker({ logLevel: 'warn' });
worker.on('died', (error) => {
  process.stderr.write(`the Python worker died: ${error.message}\n`);
  process.exit(1);
});

function createDevice() {
  return mediasoupClient.Device.factory({ handlerFactory: worker.createHandlerFactory() });
}

class Echo extends Participant {
  constructor() {
    super({ protoo, createDevice });
  }

  /** Another device: the transports of one share a peer connection in this version. */
  async sendingDevice(routerRtpCapabilities) {
    const device = await createDevice();
    await device.load({ routerRtpCapabilities });
    return device;
  }

  /** The worker of this version fails when it is asked for receivers' statistics. */
  async received({ rtpParameters }) {
    return { codec: rtpParameters.codecs[0].mimeType };
  }

  /** Produces the track of what it consumes of a kind. */
  async echo({ kind }) {
    const entry = [...this.consumers.values()].find(({ consumer }) => consumer.kind === kind);
    return this.produce({ track: entry.consumer.track, stopTracks: false });
  }
}

const participant = new Echo();
await serve(
  ({ cmd, argument }) => participant[cmd](argument),
  async () => {
    participant.leave();
    worker.close();
    if (!worker.subprocessClosed) await new Promise((closed) => worker.on('subprocessclose', closed));
  },
);
