// Following one session: by its WebSocket, by polling where that breaks, not at all while nobody looks.

import { Poll } from '@lumino/polling';

import type { Push } from './api.js';

export type Connection = 'connecting' | 'live' | 'polling' | 'lost' | 'asleep';

export interface ILiveOptions {
  readonly connect: () => WebSocket;
  /** Read over REST what the WebSocket would tell. Rejects if the server does not answer. */
  readonly read: () => Promise<void>;
  readonly take: (push: Push) => void;
  readonly changed: (connection: Connection) => void;
}

const SILENT = 60_000;
const OPENING = 10_000;
const FASTEST = 2_000;
const SLOWEST = 30_000;

/** From `start` on `take` gets what is pushed; what came before, or in a gap, is read as soon as pushes come. Where they do
 * not, everything is read again and again. Each poll also tries the WebSocket; the pauses between polls double while the
 * server does not answer. */
export class Live {
  private _socket: WebSocket | null = null;
  private _opened = false;
  private _silence = 0;
  private readonly _poll: Poll;
  private _over = false;

  constructor(private readonly _options: ILiveOptions) {
    this._poll = new Poll({
      auto: false,
      name: 'jupyter-swarm:watch',
      frequency: { interval: FASTEST, max: SLOWEST, backoff: true },
      standby: 'when-hidden',
      factory: () => this._fallBack()
    });
    document.addEventListener('visibilitychange', this._seen);
  }

  start(): void {
    if (!this._over) {
      this._seen();
    }
  }

  /** There is nothing more to come. */
  stop(): void {
    this._over = true;
    document.removeEventListener('visibilitychange', this._seen);
    this._drop();
    this._poll.dispose();
  }

  private readonly _seen = (): void => {
    if (document.hidden) {
      this._drop();
      void this._poll.stop();
      this._options.changed('asleep');
    } else if (!this._socket) {
      this._options.changed('connecting');
      this._connect();
    }
  };

  private _connect(): void {
    const socket = (this._socket = this._options.connect());
    this._expectMore(OPENING);
    socket.onmessage = event => {
      if (socket !== this._socket) {
        return;
      }
      this._expectMore(SILENT);
      if (!this._opened) {
        this._opened = true;
        void this._poll.stop();
        this._options.changed('live');
        void this._options.read().catch(() => this._again());
      }
      this._options.take(JSON.parse(String(event.data)) as Push);
    };
    socket.onclose = () => {
      if (socket === this._socket) {
        this._lost();
      }
    };
  }

  private _lost(): void {
    this._drop();
    this._again();
  }

  private _again(): void {
    if (!this._over && !document.hidden) {
      void this._poll.start();
    }
  }

  private async _fallBack(): Promise<void> {
    try {
      await this._options.read();
    } catch (error) {
      this._say('lost');
      throw error;
    }
    this._say('polling');
    if (this._opened) {
      void this._poll.stop();
    } else if (!this._over && !this._socket && !document.hidden) {
      this._connect();
    }
  }

  private _say(connection: Connection): void {
    if (!this._over && !this._opened && !document.hidden) {
      this._options.changed(connection);
    }
  }

  /** The server says something at once and then every 20 s; a connection that is cut without a word does not. */
  private _expectMore(within: number): void {
    window.clearTimeout(this._silence);
    this._silence = window.setTimeout(() => this._lost(), within);
  }

  private _drop(): void {
    window.clearTimeout(this._silence);
    const socket = this._socket;
    this._socket = null;
    this._opened = false;
    socket?.close();
  }
}
