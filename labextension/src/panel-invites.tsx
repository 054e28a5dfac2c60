// Who may come in: links made, copied, revoked.

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { IInvite, INewInvite, Role } from './api.js';
import { copy } from './clipboard.js';
import { moment } from './format.js';
import { Button, type IContext } from './panel-parts.js';
import { agreed } from './panel-status.js';

export const Invites = React.memo(function Invites(props: {
  session: string;
  list: readonly IInvite[];
  open: boolean;
  outside: boolean;
  context: IContext;
}): JSX.Element {
  const { session, list, open, outside, context } = props;
  const { model, trans, act, say } = context;
  const [role, setRole] = React.useState<Role>('peer');
  const [label, setLabel] = React.useState('');
  const [made, setMade] = React.useState<INewInvite | null>(null);
  const make = (event: React.FormEvent): void => {
    event.preventDefault();
    act(async () => {
      const invite = await model.invite(session, role, label.trim());
      setMade(invite);
      setLabel('');
      say(trans.__('The link is made.'));
    });
  };
  const roles: [Role, string][] = [
    ['peer', trans.__('to take part')],
    ['viewer', trans.__('to watch')],
    ['instructor', trans.__('to steer')]
  ];
  const usable = list.filter(invite => !invite.revoked && invite.expires * 1000 > Date.now());
  return (
    <>
      {open ? (
        <form className="swarm-form" onSubmit={make}>
          <select
            className="swarm-input"
            aria-label={trans.__('What the link is for')}
            value={role}
            onChange={event => setRole(event.target.value as Role)}
          >
            {roles.map(([value, text]) => (
              <option key={value} value={value}>
                {text}
              </option>
            ))}
          </select>
          <input
            className="swarm-input"
            value={label}
            maxLength={200}
            placeholder={trans.__('For whom')}
            aria-label={trans.__('For whom the link is; only you see it')}
            onChange={event => setLabel(event.target.value)}
          />
          <button type="submit" className="swarm-button swarm-mod-accept">
            {trans.__('Make a link')}
          </button>
        </form>
      ) : null}
      {made && usable.some(invite => invite.number === made.number) ? (
        <Made invite={made} outside={outside} context={context} />
      ) : null}
      <ul className="swarm-list" aria-label={trans.__('Invites')}>
        {[...usable].reverse().map(invite => (
          <Invite key={invite.number} invite={invite} session={session} context={context} />
        ))}
      </ul>
      {usable.length ? null : <p className="swarm-quiet">{trans.__('Nobody is invited.')}</p>}
    </>
  );
});

/** The link in full, to be selected where nothing may be copied. */
function Made(props: { invite: INewInvite; outside: boolean; context: IContext }): JSX.Element {
  const { invite, outside, context } = props;
  const { trans } = context;
  return (
    <div className="swarm-made">
      <input
        className="swarm-input"
        readOnly
        value={invite.link}
        aria-label={trans.__('The link')}
        onFocus={event => event.target.select()}
      />
      <Button kind="accept" text={trans.__('Copy')} pressed={() => copyLink(invite, context)} />
      <p className="swarm-why">{reachOf(invite, outside, trans)}</p>
    </div>
  );
}

function Invite({ invite, session, context }: { invite: IInvite; session: string; context: IContext }): JSX.Element {
  const { model, trans, act } = context;
  const known = model.linkOf(session, invite.number);
  const name = invite.label || trans.__('Link %1', invite.number);
  const revoke = (): void =>
    act(async () => {
      const body = trans.__('Nobody comes in by it any more, and whoever did is cut off.');
      if (await agreed(trans.__('Revoke %1?', name), body, trans.__('Revoke'), trans)) {
        await model.api.revoke(session, invite.number);
        await model.readInvites();
      }
    });
  const uses = trans._n('%2 of %1 use', '%2 of %1 uses', invite.capacity, invite.uses);
  return (
    <li className="swarm-item">
      <span className="swarm-name">{name}</span>
      <span className="swarm-buttons">
        <Button
          text={trans.__('Copy')}
          label={trans.__('Copy %1', name)}
          title={known ? undefined : trans.__('A link is shown only where and when it is made; make a new one')}
          disabled={!known}
          pressed={() => known && copyLink(known, context)}
        />
        <Button text={trans.__('Revoke …')} label={trans.__('Revoke %1', name)} pressed={revoke} />
      </span>
      <span className="swarm-why">
        {[roleWord(invite.role, trans), uses, trans.__('until %1', moment(invite.expires))].join(' · ')}
      </span>
    </li>
  );
}

function copyLink(invite: INewInvite, { trans, act, say }: IContext): void {
  act(async () => {
    if (await copy(invite.link, trans)) {
      say(trans.__('The link is copied.'));
    }
  });
}

function roleWord(role: string, trans: TranslationBundle): string {
  const words: Record<string, string> = {
    peer: trans.__('takes part'),
    viewer: trans.__('watches'),
    instructor: trans.__('steers'),
    holder: trans.__('keeps shards')
  };
  return words[role] ?? role;
}

/** From where the link works, as far as the server can tell. outside: whether anybody has come from another machine. */
export function reachOf(invite: INewInvite, outside: boolean, trans: TranslationBundle): string {
  if (outside) {
    return trans.__('Somebody on another machine has come in already.');
  }
  switch (invite.reach) {
    case 'machine':
      return trans.__(
        'Reachable from this machine only: open JupyterLab by an address that the others can reach, and make the link there.'
      );
    case 'network':
      return trans.__('Reachable from your own network. Nobody on another machine has come in yet.');
    default:
      return trans.__('Nobody on another machine has come in yet.');
  }
}
