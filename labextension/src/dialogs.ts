// What the commands ask for.

import { Dialog, InputDialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';

import { type Fault, readLink } from './links.js';

/** How long a class takes, so that whoever comes a minute later finds it at work. */
const ROUNDS: Readonly<Record<string, number>> = { digits: 3000, language: 130 };

export interface INewSession {
  readonly name: string;
  readonly recipe: string;
  readonly rounds: number;
}

/** A session's name and what it trains; null if it is not wanted after all. */
export async function askForSession(trans: TranslationBundle): Promise<INewSession | null> {
  const result = await showDialog({
    title: trans.__('New session'),
    body: new SessionForm(trans),
    focusNodeSelector: 'input',
    buttons: [Dialog.cancelButton({ label: trans.__('Cancel') }), Dialog.okButton({ label: trans.__('Open') })]
  });
  return result.button.accept ? result.value : null;
}

class SessionForm extends Widget implements Dialog.IBodyWidget<INewSession> {
  constructor(trans: TranslationBundle) {
    super();
    this.addClass('swarm-dialog');
    this._name = document.createElement('input');
    this._name.value = trans.__('class');
    this._recipe = document.createElement('select');
    this._recipe.add(new Option(trans.__('digits: reads handwritten digits'), 'digits'));
    this._recipe.add(new Option(trans.__('language: writes like Shakespeare'), 'language'));
    this._rounds = document.createElement('input');
    this._rounds.type = 'number';
    this._rounds.min = '1';
    const suggest = (): void => {
      this._rounds.value = String(ROUNDS[this._recipe.value]);
    };
    this._recipe.addEventListener('change', suggest);
    suggest();
    this.node.append(
      labelled(trans.__('Name'), this._name),
      labelled(trans.__('Recipe'), this._recipe),
      labelled(trans.__('Rounds, after which it is over; you may end it at any time'), this._rounds),
      paragraph(
        trans.__(
          'A new notebook opens the session and shows its invite. A recipe of your own is a cell: %1.',
          '%%swarm recipe'
        )
      )
    );
  }

  getValue(): INewSession {
    const recipe = this._recipe.value;
    const rounds = Math.floor(this._rounds.valueAsNumber);
    return { name: this._name.value.trim() || 'class', recipe, rounds: rounds > 0 ? rounds : ROUNDS[recipe]! };
  }

  private readonly _name: HTMLInputElement;
  private readonly _recipe: HTMLSelectElement;
  private readonly _rounds: HTMLInputElement;
}

/** A whole invite link; null if there is none. */
export async function askForLink(trans: TranslationBundle): Promise<string | null> {
  const faults: Record<Fault, string> = {
    empty: trans.__('Paste the link that you were given:'),
    'no link': trans.__('This is not an invite link. It begins with http and has /swarm/join/ in it:'),
    incomplete: trans.__('This link is not complete: copy all of it, with what follows the #, and paste it again:'),
    watch: trans.__('This link is for watching: open it in a browser. To take part, ask for another one:')
  };
  let fault: Fault = 'empty';
  for (let text = ''; ;) {
    const result = await InputDialog.getText({
      title: trans.__('Join a session'),
      label: faults[fault],
      text,
      placeholder: 'https://…/swarm/join/…#…',
      okLabel: trans.__('Join')
    });
    if (!result.button.accept) {
      return null;
    }
    text = result.value ?? '';
    const found = readLink(text);
    if ('link' in found) {
      return found.link;
    }
    fault = found.fault;
  }
}

function labelled(text: string, field: HTMLElement): HTMLElement {
  const label = document.createElement('label');
  const title = document.createElement('span');
  title.textContent = text;
  field.classList.add('jp-mod-styled');
  label.append(title, field);
  return label;
}

function paragraph(text: string): HTMLElement {
  const made = document.createElement('p');
  made.textContent = text;
  return made;
}
