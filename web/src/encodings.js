// How a track is sent: codec and encodings.

/** Three sizes of the picture, smallest first, as the mediasoup demo sends them. */
const SIMULCAST = [
  { scaleResolutionDownBy: 4, maxBitrate: 500_000, scalabilityMode: 'L1T3' },
  { scaleResolutionDownBy: 2, maxBitrate: 1_000_000, scalabilityMode: 'L1T3' },
  { scaleResolutionDownBy: 1, maxBitrate: 5_000_000, scalabilityMode: 'L1T3' },
];

/** Highest bit rate of a single encoding. */
const SINGLE_MAX_BITRATE = 1_500_000;

/**
 * Options of `transport.produce()` for a track. Throws when the browser and the
 * server do not share the codec that was asked for.
 */
export function produceOptions(track, device, { codec, simulcast }) {
  // A track outlives its producer: it is shown here, and sent again after a
  // reconnection.
  const common = { track, stopTracks: false };
  if (track.kind === 'audio') {
    return { ...common, codecOptions: { opusStereo: false, opusDtx: true, opusFec: true } };
  }
  const isIt = ({ mimeType }) => mimeType.toLowerCase() === `video/${codec}`;
  const chosen = codec ? device.sendRtpCapabilities.codecs.find(isIt) : undefined;
  if (codec && !chosen) throw new Error(`This browser and the server have no ${codec.toUpperCase()} in common.`);
  return {
    ...common,
    codec: chosen,
    encodings: simulcast ? SIMULCAST : [{ maxBitrate: SINGLE_MAX_BITRATE }],
    codecOptions: { videoGoogleStartBitrate: 1000 },
    appData: { source: 'webcam' },
  };
}
