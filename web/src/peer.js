// One other participant, as seen from here.

export class RemotePeer {
  constructor({ id, displayName, device }) {
    this.id = id;
    this.name = displayName || 'Somebody';
    this.device = device ?? null;
    /** mediasoup-client Consumers by id. */
    this.consumers = new Map();
    /** Whether sound came from this peer a moment ago. */
    this.speaking = false;
  }

  /** Consumers of one kind, oldest first. */
  of(kind) {
    return [...this.consumers.values()].filter((consumer) => consumer.kind === kind);
  }

  /** Whether no sound can come: no audio at all, or all of it paused. */
  get muted() {
    return this.of('audio').every((consumer) => consumer.paused);
  }
}
