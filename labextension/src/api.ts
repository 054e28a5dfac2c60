// The typed client of the server extension's REST interface. Times are seconds since 1970.

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

type SessionState = 'waiting' | 'training' | 'paused' | 'finished';
export type Role = 'peer' | 'viewer' | 'instructor';
export type SessionAction = 'pause' | 'resume' | 'stop';
export type PeerAction = 'pause' | 'resume' | 'slow' | 'mute' | 'unmute' | 'remove';

export interface IPeer {
  readonly id: string;
  readonly name: string;
  readonly device: string;
  readonly state: string;
  readonly reason: string;
  /** Samples per second. */
  readonly speed: number;
  /** Bytes per second of its link, as the server has measured them; 0: not yet. */
  readonly up: number;
  readonly down: number;
  /** Seconds; 0: not measured. */
  readonly round_trip: number;
  /** Seconds that it needs for an inner step; 0 where a round has none. */
  readonly step_seconds: number;
  /** Bytes that are free on the device that it trains on; 0: not known. */
  readonly free_memory: number;
  /** Of all samples that were accepted, from 0 to 1. */
  readonly share: number;
  /** Others do not see its own name, and neither does `name` tell it. */
  readonly muted: boolean;
  /** Who paused it, '' if nobody did. */
  readonly paused_by: string;
  /** The share of its work that it is held to, 0 if it is not. */
  readonly slowed: number;
}

/** What the model of version `round` has made of `prompt`, with which `text` may begin. */
export interface ISample {
  readonly prompt: string;
  readonly text: string;
  readonly round: number;
}

export interface IStatus {
  readonly session: string;
  readonly name: string;
  readonly state: SessionState;
  readonly reason: string;
  readonly version: number;
  /** The session ends after so many; 0: when somebody stops it. */
  readonly rounds: number;
  /** The first of them only, if they are many; `crowd` counts all. */
  readonly peers: readonly IPeer[];
  readonly crowd: { readonly peers: number; readonly speed: number };
  /** Null where a number is not finite. */
  readonly metrics: Readonly<Record<string, number | null>>;
  readonly strategy: string;
  /** What travels up and down, in words, and why, if the session has chosen it. */
  readonly codecs: string;
  readonly codecs_because: string;
  readonly next_strategy: { readonly round: number; readonly strategy: string } | null;
  readonly sample: ISample | null;
}

export interface ISession {
  readonly session: string;
  readonly name: string;
  readonly state: string;
  readonly created: number;
  readonly ended: number | null;
  /** Why it has ended, '' if it has not. */
  readonly ending: string;
  readonly sample: ISample | null;
  /** Null unless the session lives on this server. */
  readonly status: IStatus | null;
  /** Why it could not be taken up after a restart. */
  readonly problem: string;
  /** Whether anybody has connected from another machine. */
  readonly outside: boolean;
}

export interface IInvite {
  readonly number: number;
  readonly role: string;
  readonly label: string;
  readonly expires: number;
  readonly capacity: number;
  readonly uses: number;
  readonly revoked: number | null;
}

export interface INewInvite extends IInvite {
  readonly link: string;
  readonly reach: 'machine' | 'network' | 'internet';
}

export interface IFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface ICheckpoint {
  readonly number: number;
  readonly name: string;
  readonly version: number;
  readonly created: number;
  /** Of the manifest, which is a blob like the files. */
  readonly sha256: string;
  readonly manifest: {
    readonly files: readonly IFile[];
    readonly metrics: Readonly<Record<string, number | null>>;
  } | null;
  readonly problem: string;
}

export interface IMetric {
  readonly version: number;
  readonly name: string;
  /** Null if it is not finite. */
  readonly mean: number | null;
}

export interface IEvent {
  readonly unix_time: number;
  readonly level: 'info' | 'warning' | 'error';
  readonly text: string;
  readonly number?: number;
}

/** What `sessions/ID/watch` pushes. */
export type Push =
  | ({ readonly type: 'status' } & IStatus)
  | { readonly type: 'commit'; readonly round: number; readonly mean_loss: number | null }
  | { readonly type: 'evaluated'; readonly version: number; readonly metrics: Readonly<Record<string, number | null>> }
  | { readonly type: 'checkpoint' }
  | ({ readonly type: 'event' } & IEvent)
  | { readonly type: 'heartbeat' };

interface IEventPage {
  readonly events: readonly IEvent[];
  readonly next: number | null;
}

interface IMetricPage {
  readonly metrics: readonly IMetric[];
  readonly next: number | null;
}

/** What the server refused, why, and what to do next. */
export class SwarmError extends Error {
  constructor(
    readonly status: number,
    readonly what: string,
    readonly why = '',
    readonly todo = ''
  ) {
    super([what, why, todo].filter(Boolean).join(' '));
  }
}

/** All requests carry the page's cookies and XSRF token, and go through the server's base URL. Methods throw `SwarmError`
 * for what the server refuses, and `ServerConnection.NetworkError` where there is none. */
export class SwarmApi {
  constructor(readonly settings: ServerConnection.ISettings) {}

  async sessions(): Promise<readonly ISession[]> {
    return (await this._json<{ sessions: ISession[] }>('GET', 'sessions')).sessions;
  }

  session(session: string): Promise<ISession> {
    return this._json('GET', `sessions/${session}`);
  }

  async deleteSession(session: string): Promise<void> {
    await this._json('DELETE', `sessions/${session}`);
  }

  async act(session: string, action: SessionAction): Promise<void> {
    await this._json('POST', `sessions/${session}/actions`, { action });
  }

  /** share: for 'slow', of the work that the peer's speed would give it. Returns what the action does not do, if there is
   * something to know. */
  async actOnPeer(session: string, peer: string, action: PeerAction, share?: number): Promise<string> {
    const body = share === undefined ? { action } : { action, share };
    const path = `sessions/${session}/peers/${encodeURIComponent(peer)}/actions`;
    return (await this._json<{ note: string }>('POST', path, body)).note;
  }

  /** The first of the connected peers that have `name` in theirs. */
  async findPeers(session: string, name: string): Promise<readonly IPeer[]> {
    const path = `sessions/${session}/peers?here=1&find=${encodeURIComponent(name)}`;
    return (await this._json<{ connected: IPeer[] }>('GET', path)).connected;
  }

  /** The name of a peer that is muted, for whoever may steer; '' if it is not. */
  async hiddenName(session: string, peer: string): Promise<string> {
    type Members = { members: { member: string; hidden_name: string }[] };
    const { members } = await this._json<Members>('GET', `sessions/${session}/peers?find=${encodeURIComponent(peer)}`);
    return members.find(one => one.member === peer)?.hidden_name ?? '';
  }

  /** One page of the metrics of versions after `after`, of all members together. */
  metrics(session: string, after: number): Promise<IMetricPage> {
    return this._json('GET', `sessions/${session}/metrics?after=${after}&together=1`);
  }

  /** One page of the events whose number is above `after`. */
  events(session: string, after: number): Promise<IEventPage> {
    return this._json('GET', `sessions/${session}/events?after=${after}&limit=1000`);
  }

  async invites(session: string): Promise<readonly IInvite[]> {
    return (await this._json<{ invites: IInvite[] }>('GET', `sessions/${session}/invites`)).invites;
  }

  /** The link is in the answer and nowhere else. url: by which whoever asks reaches this server. */
  invite(session: string, role: Role, label: string, url: string): Promise<INewInvite> {
    return this._json('POST', `sessions/${session}/invites`, { role, label, url });
  }

  async revoke(session: string, invite: number): Promise<void> {
    await this._json('DELETE', `sessions/${session}/invites/${invite}`);
  }

  async checkpoints(session: string): Promise<readonly ICheckpoint[]> {
    return (await this._json<{ checkpoints: ICheckpoint[] }>('GET', `sessions/${session}/checkpoints`)).checkpoints;
  }

  save(session: string, name: string): Promise<ICheckpoint> {
    return this._json('POST', `sessions/${session}/checkpoints`, { name });
  }

  async deleteCheckpoint(session: string, checkpoint: number): Promise<void> {
    await this._json('DELETE', `sessions/${session}/checkpoints/${checkpoint}`);
  }

  /** The bytes of a file, as they come. */
  async blob(session: string, sha256: string, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    const response = await this._fetch(`sessions/${session}/blobs/${sha256}`, { method: 'GET', signal });
    if (!response.body) {
      throw new SwarmError(response.status, 'The server sent nothing.');
    }
    return response.body;
  }

  /** The read-only WebSocket of a session, which the page's cookies open. */
  watch(session: string): WebSocket {
    const url = URLExt.join(this.settings.wsUrl, 'swarm/api/sessions', session, 'watch');
    return new this.settings.WebSocket(url);
  }

  private async _json<T>(method: string, path: string, body?: unknown): Promise<T> {
    const init = body === undefined ? { method } : { method, body: JSON.stringify(body) };
    return (await (await this._fetch(path, init)).json()) as T;
  }

  private async _fetch(path: string, init: RequestInit): Promise<Response> {
    const url = URLExt.join(this.settings.baseUrl, 'swarm/api', path);
    const response = await ServerConnection.makeRequest(url, init, this.settings);
    if (!response.ok) {
      throw await refusal(response);
    }
    return response;
  }
}

async function refusal(response: Response): Promise<SwarmError> {
  try {
    const { what, why, todo } = (await response.json()) as Record<string, string | undefined>;
    return new SwarmError(response.status, what || response.statusText, why, todo);
  } catch {
    return new SwarmError(response.status, response.statusText || `The server answered ${response.status}.`);
  }
}
