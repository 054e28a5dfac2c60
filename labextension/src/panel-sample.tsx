// What the model makes of a prompt, as all who watch read it.

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { ISample } from './api.js';

export function Sample({ sample, trans }: { sample: ISample; trans: TranslationBundle }): JSX.Element {
  const { prompt, text, round } = sample;
  const goesOn = text.startsWith(prompt);
  return (
    <>
      <p className="swarm-why">{round ? trans.__('after round %1', round) : trans.__('before the first round')}</p>
      <p className="swarm-sample" tabIndex={0} role="region" aria-label={trans.__('What the model writes')}>
        <strong>{goesOn ? prompt : `${prompt}\n`}</strong>
        {goesOn ? text.slice(prompt.length) : text}
      </p>
    </>
  );
}
