// What an owner can do about one peer.

import type { TranslationBundle } from '@jupyterlab/translation';
import { MenuSvg } from '@jupyterlab/ui-components';
import { CommandRegistry } from '@lumino/commands';

import type { IPeer, PeerAction } from './api.js';

const SHARES = [0.75, 0.5, 0.25, 0.1];

export type OnPeer = (action: PeerAction, share?: number) => void;

export function isSlowed(peer: IPeer): boolean {
  return peer.slowed > 0;
}

/** Open the menu below `button`, which gets the focus back. hidden: the name of a peer that is muted: it is told here
 * only, for the panel may be on the wall. */
export function openPeerMenu(
  peer: IPeer,
  hidden: string,
  button: HTMLElement,
  act: OnPeer,
  trans: TranslationBundle
): void {
  const commands = new CommandRegistry();
  const menu = new MenuSvg({ commands });
  // Neither submenus nor separators: screen readers are not told what they are.
  const add = (id: string, label: string, execute: () => void, isToggled = false): void => {
    commands.addCommand(id, { label, execute, isToggled: () => isToggled });
    menu.addItem({ command: id });
  };
  // Whoever has paused itself goes on when it likes.
  if (peer.paused_by && peer.paused_by !== 'itself') {
    add('resume', trans.__('Resume'), () => act('resume'));
  } else {
    add('pause', trans.__('Pause'), () => act('pause'));
  }
  for (const share of SHARES) {
    const label = trans.__('Give it %1 % of its work', Math.round(100 * share));
    add(`slow-${share}`, label, () => act('slow', share), peer.slowed === share);
  }
  if (isSlowed(peer)) {
    add('slow-1', trans.__('Give it all its work'), () => act('slow', 1));
  }
  if (peer.muted) {
    const label = hidden ? trans.__('Show its name: %1', hidden) : trans.__('Show its name');
    add('unmute', label, () => act('unmute'));
  } else {
    add('mute', trans.__('Hide its name'), () => act('mute'));
  }
  add('remove', trans.__('Remove …'), () => act('remove'));
  menu.aboutToClose.connect(() => {
    button.setAttribute('aria-expanded', 'false');
    button.focus();
  });
  button.setAttribute('aria-expanded', 'true');
  const place = button.getBoundingClientRect();
  menu.open(place.right, place.bottom, { horizontalAlignment: 'right' });
}
