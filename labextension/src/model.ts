// What the panel shows: the sessions of this server and everything about the chosen one. Holds no logic of the session's
// own: it reads, and asks the server to act.

import { PageConfig } from '@jupyterlab/coreutils';
import { type IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { type ISignal, Signal } from '@lumino/signaling';

import {
  type ICheckpoint,
  type IEvent,
  type IInvite,
  type INewInvite,
  type ISession,
  type IStatus,
  type Push,
  type Role,
  type SwarmApi,
  SwarmError
} from './api.js';
import { Curves, LATE } from './curves.js';
import { type Connection, Live } from './live.js';

const LIST_SECONDS = 10;
const EVENTS_SHOWN = 100;
const PAGES = 200;
const PAUSE = 200;

/** Everything about one session. */
export interface IChosen {
  readonly session: string;
  view: ISession | null;
  status: IStatus | null;
  readonly curves: Curves;
  checkpoints: readonly ICheckpoint[];
  invites: readonly IInvite[];
  events: readonly IEvent[];
  connection: Connection;
  /** It was deleted, by whomever. */
  gone: boolean;
}

export class SwarmModel implements IDisposable {
  /** The newest first. */
  sessions: readonly ISession[] = [];
  chosen: IChosen | null = null;
  /** Why the list of sessions cannot be read, '' if it can. */
  problem = '';
  /** Whether the list has been read at all. */
  ready = false;
  /** The session that was shown on an earlier page. */
  preferred = '';
  /** The links of invites made on this page, by session and number: the server does not give them again. */
  private readonly _links = new Map<string, INewInvite>();
  private readonly _changed = new Signal<this, void>(this);
  private _pending = 0;
  private _emitted = -Infinity;
  private _live: Live | null = null;
  private _watched = false;
  private readonly _list: Poll;

  constructor(readonly api: SwarmApi) {
    this._list = new Poll({
      auto: true,
      name: 'jupyter-swarm:sessions',
      frequency: { interval: LIST_SECONDS * 1000, max: 120_000, backoff: true },
      standby: 'when-hidden',
      factory: () => this._readSessions()
    });
  }

  /** Emitted a few times a second at most, whatever comes in, and not while the page is hidden. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._list.isDisposed;
  }

  dispose(): void {
    this._live?.stop();
    this._list.dispose();
    window.clearTimeout(this._pending);
    Signal.clearData(this);
  }

  /** Read the list now. */
  async refresh(): Promise<void> {
    await this._list.refresh();
    await this._list.tick;
  }

  /** Whether somebody looks at more than the list, so that the chosen session is followed. */
  watch(watched: boolean): void {
    if (watched !== this._watched) {
      this._watched = watched;
      this._follow();
    }
  }

  choose(session: string): void {
    if (session === this.chosen?.session) {
      return;
    }
    const view = this.sessions.find(one => one.session === session) ?? null;
    this.chosen = session
      ? {
          session,
          view,
          status: view?.status ?? null,
          curves: new Curves(),
          checkpoints: [],
          invites: [],
          events: [],
          connection: 'connecting',
          gone: false
        }
      : null;
    this._follow();
    this._emit();
  }

  /** The link of an invite, if it was made on this page. */
  linkOf(session: string, invite: number): INewInvite | undefined {
    return this._links.get(`${session}/${invite}`);
  }

  /** The newest good invite of a role whose link is known, or a new one. */
  async inviteFor(session: string, role: Role): Promise<INewInvite> {
    const now = Date.now() / 1000;
    for (const invite of [...(await this.api.invites(session))].reverse()) {
      const made = this.linkOf(session, invite.number);
      if (made && invite.role === role && !invite.revoked && invite.expires > now && invite.uses < invite.capacity) {
        return made;
      }
    }
    return this.invite(session, role, '');
  }

  async invite(session: string, role: Role, label: string): Promise<INewInvite> {
    const made = await this.api.invite(session, role, label, new URL(PageConfig.getBaseUrl(), location.href).href);
    this._links.set(`${session}/${made.number}`, made);
    await this.readInvites();
    return made;
  }

  async readInvites(): Promise<void> {
    await this._read(async (chosen, session) => (chosen.invites = await this.api.invites(session)));
  }

  async readCheckpoints(): Promise<void> {
    await this._read(async (chosen, session) => (chosen.checkpoints = await this.api.checkpoints(session)));
  }

  /** The chosen session's view again: after an action, whose effect should not wait for the next push. */
  async readStatus(): Promise<void> {
    await this._read(async (chosen, session) => {
      const view = await this.api.session(session);
      chosen.view = view;
      chosen.status = view.status ?? chosen.status;
    });
  }

  private async _readSessions(): Promise<void> {
    const before = this.sessions;
    try {
      this.sessions = [...(await this.api.sessions())].sort((one, other) => other.created - one.created);
      this.problem = '';
    } catch (error) {
      this.problem = String(error instanceof Error ? error.message : error);
      this.ready = true;
      this._emit();
      throw error;
    }
    this.ready = true;
    const chosen = this.chosen;
    if (chosen) {
      const view = this.sessions.find(one => one.session === chosen.session);
      chosen.gone = !view;
      if (view) {
        this._look(chosen, view);
      } else {
        this._stopFollowing(chosen);
      }
      if (this._live) {
        void this._readLists(chosen);
      }
    }
    this._chooseUseful(before);
    this._emit();
  }

  /** At first the one that was shown before, or that runs; then one that has just been opened, unless one that runs
   * is shown. */
  private _chooseUseful(before: readonly ISession[]): void {
    const shown = this.sessions.find(one => one.session === this.chosen?.session);
    if (!this.chosen) {
      const again = this.sessions.find(one => one.session === this.preferred);
      this.choose((again ?? this.sessions.find(isRunning) ?? this.sessions[0])?.session ?? '');
    } else if (!shown || !isRunning(shown)) {
      const known = new Set(before.map(one => one.session));
      const opened = this.sessions.find(one => isRunning(one) && !known.has(one.session));
      if (opened) {
        this.choose(opened.session);
      }
    }
  }

  private _follow(): void {
    this._live?.stop();
    this._live = null;
    const chosen = this.chosen;
    if (!chosen || !this._watched) {
      return;
    }
    this._live = new Live({
      connect: () => this.api.watch(chosen.session),
      read: () => this._readAll(chosen),
      take: push => this._take(chosen, push),
      changed: connection => {
        chosen.connection = connection;
        this._emit();
      }
    });
    this._live.start();
  }

  private _take(chosen: IChosen, push: Push): void {
    switch (push.type) {
      case 'status':
        chosen.status = push;
        break;
      case 'commit':
        chosen.curves.put('loss', push.round, push.mean_loss);
        break;
      case 'evaluated':
        for (const [name, value] of Object.entries(push.metrics)) {
          chosen.curves.put(`held_out_${name}`, push.version, value);
        }
        break;
      case 'checkpoint':
        void this._readLists(chosen);
        break;
      case 'event':
        chosen.events = [...chosen.events, push].slice(-EVENTS_SHOWN);
        break;
      case 'heartbeat':
        return;
    }
    this._emit();
  }

  /** Everything, as after a gap. A session that is gone or over stops being followed, not being shown. */
  private async _readAll(chosen: IChosen): Promise<void> {
    try {
      const view = await this.api.session(chosen.session);
      this._look(chosen, view);
      this._emit();
      const [invites, checkpoints] = await Promise.all([
        this.api.invites(chosen.session),
        this.api.checkpoints(chosen.session),
        this._readEvents(chosen),
        this._readCurves(chosen)
      ]);
      Object.assign(chosen, { invites, checkpoints });
      if (!view.status && (!isRunning(view) || view.problem)) {
        this._stopFollowing(chosen);
      }
    } catch (error) {
      if (!(error instanceof SwarmError) || error.status !== 404) {
        throw error;
      }
      chosen.gone = true;
      this._stopFollowing(chosen);
    }
    this._emit();
  }

  /** What is pushed is newer than what was asked for. */
  private _look(chosen: IChosen, view: ISession): void {
    chosen.view = view;
    if (!this._live || chosen.connection !== 'live' || !chosen.status) {
      chosen.status = view.status ?? chosen.status;
    }
  }

  /** What the WebSocket does not tell: who has used an invite, what is done in another tab. */
  private async _readLists(chosen: IChosen): Promise<void> {
    const { session } = chosen;
    try {
      const [invites, checkpoints] = await Promise.all([this.api.invites(session), this.api.checkpoints(session)]);
      Object.assign(chosen, { invites, checkpoints });
      this._emit();
    } catch {
      // The next look tells.
    }
  }

  private _stopFollowing(chosen: IChosen): void {
    if (chosen === this.chosen) {
      this._live?.stop();
      this._live = null;
    }
  }

  /** Those that were stored, and after them those that came by the WebSocket only: these have no numbers. */
  private async _readEvents(chosen: IChosen): Promise<void> {
    for (let more = true; more;) {
      const { events, next } = await this.api.events(chosen.session, lastNumber(chosen.events));
      const known = lastNumber(chosen.events);
      const stored = [...chosen.events, ...events.filter(one => one.number! > known)].filter(one => one.number);
      const last = stored.at(-1)?.unix_time ?? 0;
      const fresh = next === null ? chosen.events.filter(one => !one.number && one.unix_time > last) : [];
      chosen.events = [...stored, ...fresh].slice(-EVENTS_SHOWN);
      more = next !== null;
    }
  }

  private async _readCurves(chosen: IChosen): Promise<void> {
    const { curves } = chosen;
    for (let page = 0; page < PAGES; page++) {
      const { metrics, next } = await this.api.metrics(chosen.session, curves.known);
      curves.take(metrics);
      this._emit();
      if (next === null) {
        curves.known = Math.max(-1, curves.known - LATE);
        return;
      }
    }
  }

  private async _read(read: (chosen: IChosen, session: string) => Promise<unknown>): Promise<void> {
    const chosen = this.chosen;
    if (chosen) {
      await read(chosen, chosen.session).catch(error => {
        if (!(error instanceof SwarmError) || error.status !== 404) {
          throw error;
        }
        chosen.gone = true;
      });
      this._emit();
    }
  }

  private _emit(): void {
    if (this._pending || this.isDisposed) {
      return;
    }
    this._pending = window.setTimeout(
      () => {
        requestAnimationFrame(() => {
          this._pending = 0;
          this._emitted = performance.now();
          this._changed.emit();
        });
      },
      Math.max(0, this._emitted + PAUSE - performance.now())
    );
  }
}

function lastNumber(events: readonly IEvent[]): number {
  return Math.max(0, ...events.map(event => event.number ?? 0));
}

/** Whether a session can still go on. */
export function isRunning(view: ISession): boolean {
  return view.ended === null && view.state !== 'finished';
}
