// Who is there: device, speed, share, link, state and the reason for waiting; and what the owner can do about it.

import * as React from 'react';

import type { IPeer, PeerAction } from './api.js';
import { measured, percent, speed } from './format.js';
import { type IContext } from './panel-parts.js';
import { agreed, stateWord } from './panel-status.js';
import { isSlowed, openPeerMenu } from './peer-menu.js';

/** More are found by their names. */
const MANY = 12;
const TYPING_MS = 300;

export const Peers = React.memo(function Peers(props: {
  session: string;
  /** The first of them, if they are too many. */
  peers: readonly IPeer[];
  count: number;
  context: IContext;
}): JSX.Element {
  const { session, peers, count, context } = props;
  const { trans } = context;
  const [wanted, setWanted] = React.useState('');
  const all = peers.length >= count;
  const found = useFound(session, all ? '' : wanted, peers, context);
  const shown = all ? peers.filter(peer => nameOf(peer).toLowerCase().includes(wanted.toLowerCase())) : found;
  if (!peers.length) {
    return <p className="swarm-quiet">{trans.__('Nobody is connected.')}</p>;
  }
  return (
    <>
      {!all || count > MANY ? (
        <input
          className="swarm-input"
          type="search"
          placeholder={trans.__('Find a name')}
          aria-label={trans.__('Find a peer by its name')}
          value={wanted}
          onChange={event => setWanted(event.target.value)}
        />
      ) : null}
      <ul className="swarm-peers" aria-label={trans.__('Peers')}>
        {shown.map(peer => (
          <Peer key={peer.id} peer={peer} session={session} context={context} />
        ))}
      </ul>
      {shown.length ? null : <p className="swarm-quiet">{trans.__('Nobody here is called so.')}</p>}
      {all || wanted ? null : (
        <p className="swarm-quiet">
          {trans.__('%1 of %2 are shown: find the others by their names.', peers.length, count)}
        </p>
      )}
    </>
  );
});

/** Of a crowd whose status has the first only: those who are called so, as the server finds them, anew with each status;
 * the first until it has. */
function useFound(session: string, wanted: string, first: readonly IPeer[], context: IContext): readonly IPeer[] {
  const [found, setFound] = React.useState<readonly IPeer[] | null>(null);
  const { api } = context.model;
  const question = `${session} ${wanted}`;
  const asked = React.useRef(question);
  asked.current = question;
  React.useEffect(() => {
    if (!wanted) {
      setFound(null);
      return;
    }
    const asking = window.setTimeout(() => {
      void api.findPeers(session, wanted).then(
        // An answer may take longer than the next status.
        some => asked.current === question && setFound(some),
        () => undefined // the next status asks again
      );
    }, TYPING_MS);
    return () => window.clearTimeout(asking);
  }, [api, session, wanted, question, first]);
  return (wanted && found) || first;
}

interface IPeerProps {
  readonly peer: IPeer;
  readonly session: string;
  readonly context: IContext;
}

const Peer = React.memo(
  function Peer({ peer, session, context }: IPeerProps): JSX.Element {
    const { trans } = context;
    const name = nameOf(peer);
    const notes = [
      isSlowed(peer) ? trans.__('gets %1 of its work', percent(peer.slowed)) : '',
      peer.muted ? trans.__('name hidden') : ''
    ].filter(Boolean);
    const open = ({ currentTarget }: React.MouseEvent<HTMLButtonElement>): void => {
      const show = (hidden: string): void =>
        openPeerMenu(peer, hidden, currentTarget, (...wanted) => actOn(peer, session, context, ...wanted), trans);
      if (peer.muted) {
        void context.model.api.hiddenName(session, peer.id).then(show, () => show(''));
      } else {
        show('');
      }
    };
    return (
      <li className="swarm-peer">
        <span className="swarm-name">{name}</span>
        <span className="swarm-state" data-state={stateOf(peer)}>
          <span className="swarm-dot" aria-hidden="true" />
          <strong>{stateWord(peer.state, trans)}</strong>
        </span>
        <button
          type="button"
          className="swarm-button swarm-menu"
          aria-haspopup="menu"
          aria-expanded="false"
          aria-label={trans.__('Actions for %1', name)}
          title={trans.__('Pause, slow down, hide the name, remove')}
          onClick={open}
        >
          <span aria-hidden="true">⋯</span>
        </button>
        <span className="swarm-why">{[peer.reason, ...notes].filter(Boolean).join(' · ')}</span>
        <span className="swarm-facts">
          <span>{peer.device}</span>
          <span>{speed(peer.speed, trans)}</span>
          <span>{trans.__('%1 of all', percent(peer.share))}</span>
          {measured(peer, trans).map(text => (
            <span key={text}>{text}</span>
          ))}
        </span>
        <span className="swarm-share" aria-hidden="true">
          <span style={{ width: `${100 * peer.share}%` }} />
        </span>
      </li>
    );
  },
  (before, after) =>
    before.session === after.session &&
    before.context === after.context &&
    looksOf(before.peer, before.context) === looksOf(after.peer, after.context)
);

function looksOf(peer: IPeer, { trans }: IContext): string {
  const { name, device, state, reason, muted, paused_by, slowed } = peer;
  const rounded = [peer.speed.toPrecision(3), percent(peer.share), ...measured(peer, trans)];
  return JSON.stringify([name, device, state, reason, muted, paused_by, slowed, rounded]);
}

function nameOf(peer: IPeer): string {
  return peer.name || peer.id;
}

/** How a peer's state is coloured. */
function stateOf({ state }: IPeer): string {
  return ['training', 'uploading', 'contributing'].includes(state) ? 'training' : state;
}

function actOn(peer: IPeer, session: string, context: IContext, action: PeerAction, share?: number): void {
  const { model, trans, act, say } = context;
  const name = nameOf(peer);
  act(async () => {
    const body = trans.__(
      'Its connection is closed, and its kernel is not let in again. What it has contributed stays.'
    );
    if (action === 'remove' && !(await agreed(trans.__('Remove %1?', name), body, trans.__('Remove'), trans))) {
      return;
    }
    const note = await model.api.actOnPeer(session, peer.id, action, share);
    await model.readStatus();
    const done = {
      pause: trans.__('%1 is paused.', name),
      resume: trans.__('%1 goes on.', name),
      slow: trans.__('%1 gets %2 of its work.', name, percent(share ?? 1)),
      mute: trans.__('The name of %1 is hidden.', name),
      unmute: trans.__('The name of %1 is shown.', name),
      remove: trans.__('%1 was removed.', name)
    }[action];
    say([done, note].filter(Boolean).join(' '));
  });
}
