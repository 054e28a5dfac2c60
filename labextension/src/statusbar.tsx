// The status bar's item: what the shown session does, in a few words.

import { ReactWidget } from '@jupyterlab/ui-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { swarmIcon } from './icons.js';
import { type SwarmModel, isRunning } from './model.js';
import { useModel } from './panel-parts.js';
import { stateWord } from './panel-status.js';

export class StatusItem extends ReactWidget {
  constructor(
    private readonly _model: SwarmModel,
    private readonly _trans: TranslationBundle,
    private readonly _pressed: () => void
  ) {
    super();
    this.addClass('swarm-status-item');
  }

  /** Whether there is anything to say. */
  get useful(): boolean {
    return !!this._model.chosen?.status && !!this._model.chosen.view && isRunning(this._model.chosen.view);
  }

  protected override render(): JSX.Element {
    return <Item model={this._model} trans={this._trans} pressed={this._pressed} />;
  }
}

function Item(props: { model: SwarmModel; trans: TranslationBundle; pressed: () => void }): JSX.Element | null {
  const { model, trans, pressed } = props;
  useModel(model);
  const status = model.chosen?.status;
  if (!status) {
    return null;
  }
  const peers = trans._n('%1 peer', '%1 peers', status.crowd.peers);
  const round = trans.__('round %1', status.version);
  const text = [`${status.name}: ${stateWord(status.state, trans)}`, round, peers].join(' · ');
  return (
    <button type="button" className="swarm-status-button" title={status.reason} onClick={pressed}>
      <swarmIcon.react tag="span" height="14px" width="14px" aria-hidden="true" />
      {text}
    </button>
  );
}
