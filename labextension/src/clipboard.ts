// Copying, also where the browser does not allow it.

import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';

/** Copy `text`, or, where that is not allowed, show it to be copied by hand. Whether it was copied. */
export async function copy(text: string, trans: TranslationBundle): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement('input');
    field.className = 'swarm-input swarm-copied';
    field.readOnly = true;
    field.value = text;
    field.setAttribute('aria-label', trans.__('To be copied'));
    const body = new Widget({ node: document.createElement('div') });
    const hint = document.createElement('p');
    hint.textContent = trans.__('The browser does not let this page copy. Press Ctrl+C, or Command+C on a Mac.');
    body.node.append(field, hint);
    field.addEventListener('focus', () => field.select());
    await showDialog({
      title: trans.__('Copy the link'),
      body,
      buttons: [Dialog.okButton({ label: trans.__('Close') })],
      focusNodeSelector: 'input'
    });
    return false;
  }
}
