// What the panel's sections share.

import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import * as React from 'react';

import type { SwarmModel } from './model.js';

export interface IContext {
  readonly model: SwarmModel;
  readonly commands: CommandRegistry;
  readonly trans: TranslationBundle;
  /** Do what a button says; what goes wrong is shown in the panel. */
  readonly act: (what: () => Promise<unknown>) => void;
  /** Tell everybody, also those who listen, what has been done. */
  readonly say: (text: string) => void;
}

/** A part of the panel that can be folded away. */
export function Section(
  props: React.PropsWithChildren<{ title: string; count?: number; open?: boolean }>
): JSX.Element {
  return (
    <details className="swarm-section" open={props.open ?? true}>
      <summary>
        <h3>
          {props.title}
          {props.count === undefined ? null : <span className="swarm-count"> {props.count}</span>}
        </h3>
      </summary>
      <div className="swarm-body">{props.children}</div>
    </details>
  );
}

interface IButton {
  readonly text: string;
  readonly title?: string | undefined;
  readonly label?: string | undefined;
  readonly kind?: 'accept' | 'warn' | 'plain';
  readonly disabled?: boolean;
  readonly pressed: (event: React.MouseEvent<HTMLButtonElement>) => void;
}

export function Button(props: IButton): JSX.Element {
  return (
    <button
      type="button"
      className={`swarm-button swarm-mod-${props.kind ?? 'plain'}`}
      title={props.title}
      aria-label={props.label}
      disabled={props.disabled ?? false}
      onClick={props.pressed}
    >
      {props.text}
    </button>
  );
}

/** Draw anew whenever the model has changed. */
export function useModel(model: SwarmModel): void {
  const [, again] = React.useReducer((count: number) => count + 1, 0);
  React.useEffect(() => {
    model.changed.connect(again);
    again();
    return () => {
      model.changed.disconnect(again);
    };
  }, [model]);
}
