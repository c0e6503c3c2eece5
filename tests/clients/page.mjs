// The page of a version of mediasoup-client: `window.participant`, for the test to
// call. build.mjs puts the version in place of `mediasoup-client`.

import * as mediasoupClient from 'mediasoup-client';
import * as protoo from 'protoo-client';
import { Participant } from './participant.mjs';

/** Plays what is received: a browser decodes only what it plays. */
function play({ id, kind, track }) {
  const element = document.createElement(kind);
  element.id = id;
  element.autoplay = true;
  element.playsInline = true;
  element.srcObject = new MediaStream([track]);
  document.body.append(element);
  track.addEventListener('ended', () => element.remove());
}

class BrowserParticipant extends Participant {
  constructor() {
    const createDevice = () => mediasoupClient.Device.factory?.() ?? new mediasoupClient.Device();
    super({ protoo, createDevice, onConsumer: play });
  }

  /**
   * Sends microphone and camera. `codec`: MIME type of the video, else the first
   * of the router. `simulcast`: two layers instead of one. `scalabilityMode`: of a
   * single stream with layers in itself. `opusDtx`: send next to nothing in silence.
   */
  async sendMedia({ codec, simulcast, scalabilityMode, opusDtx = true }) {
    const media = await navigator.mediaDevices.getUserMedia({
      audio: true,
      video: { width: 640, height: 360, frameRate: 20 },
    });
    const [audio] = media.getAudioTracks();
    const [video] = media.getVideoTracks();
    const codecOptions = { opusStereo: true, opusDtx, opusFec: true };
    await this.produce({ track: audio, codecOptions });
    const chosen = this.routerCodec(codec);
    const encodings = simulcast
      ? [
          { scaleResolutionDownBy: 2, maxBitrate: 200_000, scalabilityMode: 'L1T3' },
          { scaleResolutionDownBy: 1, maxBitrate: 800_000, scalabilityMode: 'L1T3' },
        ]
      : scalabilityMode && [{ scalabilityMode }];
    return this.produce({
      track: video,
      encodings,
      codec: chosen,
      codecOptions: { videoGoogleStartBitrate: 1000 },
    });
  }

  routerCodec(mimeType) {
    if (!mimeType) return undefined;
    const capabilities = this.device.recvRtpCapabilities ?? this.device.rtpCapabilities;
    const codec = capabilities.codecs.find((c) => c.mimeType.toLowerCase() === mimeType.toLowerCase());
    if (!codec) throw new Error(`no ${mimeType} in common`);
    return codec;
  }
}

window.mediasoupClientVersion = mediasoupClient.version;
window.participant = new BrowserParticipant();
