// What the session does, in large, and why; the buttons that steer it.

import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { IStatus, SessionAction } from './api.js';
import { metric } from './format.js';
import { type IChosen, isRunning } from './model.js';
import { Button, type IContext } from './panel-parts.js';
import { short } from './ticks.js';

const MOST = 3;

/** What a session or a peer does. */
export function stateWord(state: string, trans: TranslationBundle): string {
  const words: Record<string, string> = {
    running: trans.__('running'),
    waiting: trans.__('waiting'),
    training: trans.__('training'),
    paused: trans.__('paused'),
    finished: trans.__('finished'),
    joining: trans.__('joining'),
    receiving: trans.__('receiving'),
    contributing: trans.__('contributing'),
    uploading: trans.__('uploading')
  };
  return words[state] ?? state;
}

export function Status({ chosen, context }: { chosen: IChosen; context: IContext }): JSX.Element {
  const { trans } = context;
  const { status, view } = chosen;
  const state = status?.state ?? view?.state ?? '';
  return (
    <section className="swarm-status" aria-label={trans.__('Session')}>
      <h2>
        {view?.name ?? chosen.session} <span className="swarm-quiet">{chosen.session}</span>
      </h2>
      <p className="swarm-state" data-state={state}>
        <span className="swarm-dot" aria-hidden="true" />
        <strong>{stateWord(state, trans)}</strong>
        <Connected chosen={chosen} context={context} />
      </p>
      <p className="swarm-reason">{reasonOf(chosen, trans)}</p>
      {status ? <Progress status={status} trans={trans} /> : null}
      {status ? <Tiles status={status} trans={trans} /> : null}
      {status?.codecs_because ? <p className="swarm-quiet">{status.codecs_because}</p> : null}
      <Steering chosen={chosen} context={context} />
    </section>
  );
}

function reasonOf({ gone, view, status }: IChosen, trans: TranslationBundle): string {
  if (gone) {
    return trans.__('This session was deleted.');
  }
  if (view?.problem) {
    return view.problem;
  }
  if (!status) {
    return view && !isRunning(view)
      ? trans.__('The session has ended (%1); its curve and checkpoints are kept.', view.ending || trans.__('finished'))
      : trans.__('The server is reading what is stored of this session.');
  }
  const reason = status.reason.replace(new RegExp(`^${status.state}: `), '');
  const next = status.next_strategy;
  const change = next ? trans.__('%1 follows from round %2 on.', next.strategy, next.round) : '';
  return [reason, change].filter(Boolean).join(' ');
}

function Connected({ chosen, context }: { chosen: IChosen; context: IContext }): JSX.Element | null {
  const { trans } = context;
  if (!chosen.status || chosen.gone || chosen.status.state === 'finished') {
    return null;
  }
  const text = {
    connecting: trans.__('connecting …'),
    live: trans.__('live'),
    polling: trans.__('read every few seconds'),
    lost: trans.__('the server does not answer; trying again'),
    asleep: trans.__('standing by')
  }[chosen.connection];
  return <span className={`swarm-connection swarm-mod-${chosen.connection}`}>{text}</span>;
}

function Progress({ status, trans }: { status: IStatus; trans: TranslationBundle }): JSX.Element | null {
  if (!status.rounds) {
    return null;
  }
  const label = trans._n('%2 of %1 round', '%2 of %1 rounds', status.rounds, status.version);
  return (
    <progress className="swarm-progress" value={status.version} max={status.rounds} aria-label={label}>
      {label}
    </progress>
  );
}

function Tiles({ status, trans }: { status: IStatus; trans: TranslationBundle }): JSX.Element {
  const { peers, speed } = status.crowd;
  const heldOut = Object.entries(status.metrics).filter(([name]) => name.startsWith('held_out_'));
  const metrics = status.metrics.loss === undefined ? heldOut : [['loss', status.metrics.loss] as const, ...heldOut];
  const tiles: [string, string][] = [
    [
      status.rounds ? trans._n('of %1 round', 'of %1 rounds', status.rounds) : trans.__('rounds'),
      String(status.version)
    ],
    ...metrics.slice(0, MOST).map(([name, value]): [string, string] => [metric(name, trans), short(value)]),
    [trans.__('peers'), String(peers)],
    [trans.__('samples/s'), speed ? short(speed) : '–']
  ];
  return (
    <dl className="swarm-tiles">
      {tiles.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Steering({ chosen, context }: { chosen: IChosen; context: IContext }): JSX.Element | null {
  const { model, trans, act, say } = context;
  const { session, status, view } = chosen;
  const steer = (action: SessionAction, done: string): void =>
    act(async () => {
      await model.api.act(session, action);
      await model.readStatus();
      say(done);
    });
  const end = (): void =>
    act(async () => {
      const body = trans.__('The round under way is finished, then nobody trains any more. The model is kept.');
      if (await agreed(trans.__('End session %1?', session), body, trans.__('End'), trans)) {
        steer('stop', trans.__('The session ends after this round.'));
      }
    });
  const remove = (): void =>
    act(async () => {
      const body = trans.__('Its history, its checkpoints and its invites are deleted from this server for good.');
      if (await agreed(trans.__('Delete session %1?', session), body, trans.__('Delete'), trans)) {
        await model.api.deleteSession(session);
        await model.refresh();
        say(trans.__('The session was deleted.'));
      }
    });
  if (chosen.gone) {
    return null;
  }
  const over = !status || status.state === 'finished';
  return (
    <div className="swarm-buttons">
      {over ? null : status.state === 'paused' ? (
        <Button
          kind="accept"
          text={trans.__('Resume')}
          title={trans.__('Everybody goes on')}
          pressed={() => steer('resume', trans.__('The session goes on.'))}
        />
      ) : (
        <Button
          text={trans.__('Pause')}
          title={trans.__('Nobody gets any more work until you resume')}
          pressed={() => steer('pause', trans.__('The session is paused.'))}
        />
      )}
      {over ? null : <Button kind="warn" text={trans.__('End …')} pressed={end} />}
      {over && view ? <Button kind="warn" text={trans.__('Delete …')} pressed={remove} /> : null}
    </div>
  );
}

/** Ask before something that cannot be undone. */
export async function agreed(title: string, body: string, accept: string, trans: TranslationBundle): Promise<boolean> {
  const buttons = [Dialog.cancelButton({ label: trans.__('Cancel') }), Dialog.warnButton({ label: accept })];
  return (await showDialog({ title, body, buttons, defaultButton: 0 })).button.accept;
}
