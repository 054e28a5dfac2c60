// What an owner can do about one peer.

import type { TranslationBundle } from '@jupyterlab/translation';
import { MenuSvg } from '@jupyterlab/ui-components';
import { CommandRegistry } from '@lumino/commands';
import type { Menu } from '@lumino/widgets';

import type { IPeer, PeerAction } from './api.js';

const SHARES = [0.75, 0.5, 0.25, 0.1];

export type OnPeer = (action: PeerAction, share?: number) => void;

export function isSlowed(peer: IPeer): boolean {
  return !!peer.slowed && peer.slowed < 1;
}

/** Open the menu below `button`, which gets the focus back. */
export function openPeerMenu(peer: IPeer, button: HTMLElement, act: OnPeer, trans: TranslationBundle): void {
  const commands = new CommandRegistry();
  const menu = new MenuSvg({ commands });
  const slower = new MenuSvg({ commands });
  const add = (to: Menu, id: string, label: string, execute: () => void, isToggled = false): void => {
    commands.addCommand(id, { label, execute, isToggled: () => isToggled });
    to.addItem({ command: id });
  };
  // Who has paused itself goes on when it likes.
  if (peer.paused_by && peer.paused_by !== 'itself') {
    add(menu, 'resume', trans.__('Resume'), () => act('resume'));
  } else {
    add(menu, 'pause', trans.__('Pause'), () => act('pause'));
  }
  slower.title.label = trans.__('Give it less work');
  for (const share of SHARES) {
    const label = trans.__('%1 % of its speed', Math.round(100 * share));
    add(slower, `slow-${share}`, label, () => act('slow', share), peer.slowed === share);
  }
  add(slower, 'slow-1', trans.__('All that it can do'), () => act('slow', 1), !isSlowed(peer));
  menu.addItem({ type: 'submenu', submenu: slower });
  if (peer.muted) {
    add(menu, 'unmute', trans.__('Show its name'), () => act('unmute'));
  } else {
    add(menu, 'mute', trans.__('Hide its name'), () => act('mute'));
  }
  menu.addItem({ type: 'separator' });
  add(menu, 'remove', trans.__('Remove …'), () => act('remove'));
  menu.aboutToClose.connect(() => {
    button.setAttribute('aria-expanded', 'false');
    button.focus();
  });
  button.setAttribute('aria-expanded', 'true');
  const place = button.getBoundingClientRect();
  menu.open(place.right, place.bottom, { horizontalAlignment: 'right' });
}
