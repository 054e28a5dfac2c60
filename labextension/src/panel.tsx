// The panel as a whole: in the sidebar, or, for a projector, in the main area.

import type { IThemeManager } from '@jupyterlab/apputils';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { Message } from '@lumino/messaging';
import * as React from 'react';

import { useKeptFocus } from './focus.js';
import type { IPeer } from './api.js';
import { CommandIDs } from './ids.js';
import { type IChosen, type SwarmModel, isRunning } from './model.js';
import { Checkpoints, canSave } from './panel-checkpoints.js';
import { Chart } from './panel-curves.js';
import { Invites } from './panel-invites.js';
import { Log } from './panel-log.js';
import { Button, type IContext, Section, useModel } from './panel-parts.js';
import { Peers } from './panel-peers.js';
import { Sample } from './panel-sample.js';
import { Status, stateWord } from './panel-status.js';
import { swarmIcon } from './icons.js';

/** The same each time. */
const NOBODY: readonly IPeer[] = [];

export interface IPanelOptions {
  readonly model: SwarmModel;
  readonly commands: CommandRegistry;
  readonly trans: TranslationBundle;
  readonly themes: IThemeManager | null;
  /** Called with whether the panel can be seen. */
  readonly seen: (panel: SwarmPanel, visible: boolean) => void;
  readonly large: boolean;
}

export class SwarmPanel extends ReactWidget {
  constructor(private readonly _options: IPanelOptions) {
    super();
    const { trans, large } = _options;
    this.id = large ? 'jupyter-swarm-large' : 'jupyter-swarm';
    this.addClass('swarm-panel');
    this.title.icon = swarmIcon;
    this.title.caption = trans.__('Training together');
    this.title.label = large ? trans.__('Training together') : '';
    this.title.closable = large;
    this.node.tabIndex = -1;
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Training together'));
  }

  protected override render(): JSX.Element {
    return <Panel {...this._options} />;
  }

  /** Whoever opens it with the keyboard goes on in it. */
  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    // The palette, as it closes, puts the focus back to where it was.
    window.setTimeout(() => {
      const elsewhere = !this.node.contains(document.activeElement) && !document.querySelector('.jp-Dialog');
      if (this.isVisible && elsewhere) {
        this.node.focus();
      }
    }, 100);
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._options.seen(this, true);
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this._options.seen(this, this.isVisible);
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this._options.seen(this, false);
  }

  protected override onBeforeDetach(message: Message): void {
    this._options.seen(this, false);
    super.onBeforeDetach(message);
  }

  /** What is closed does not come back when the page is loaded again. */
  protected override onCloseRequest(message: Message): void {
    super.onCloseRequest(message);
    if (this._options.large) {
      this.dispose();
    }
  }
}

function Panel({ model, commands, trans, themes, large }: IPanelOptions): JSX.Element {
  useModel(model);
  const [problem, setProblem] = React.useState('');
  const [said, setSaid] = React.useState({ text: '', number: 0 });
  const theme = useTheme(themes);
  const root = useKeptFocus();
  const context = React.useMemo<IContext>(
    () => ({
      model,
      commands,
      trans,
      say: text => setSaid(({ number }) => ({ text, number: number + 1 })),
      act: what => {
        setProblem('');
        what().catch((error: unknown) => setProblem(error instanceof Error ? error.message : String(error)));
      }
    }),
    [model, commands, trans]
  );
  const chosen = model.chosen;
  return (
    <div className="swarm-content" ref={root}>
      <Head context={context} large={large} />
      <div role="alert" className="swarm-problem">
        {problem ? (
          <p>
            {problem} <Button text={trans.__('Close')} pressed={() => setProblem('')} />
          </p>
        ) : null}
        {model.problem ? <p>{trans.__('The sessions cannot be read. %1', model.problem)}</p> : null}
      </div>
      <Announcer chosen={chosen} trans={trans} />
      {chosen ? (
        <One chosen={chosen} context={context} theme={theme} />
      ) : model.ready && !model.problem ? (
        <Nothing context={context} />
      ) : null}
      <div role="status" aria-live="polite" className="swarm-said">
        {said.text ? <p key={said.number}>{said.text}</p> : null}
      </div>
    </div>
  );
}

function One({ chosen, context, theme }: { chosen: IChosen; context: IContext; theme: string }): JSX.Element {
  const { trans } = context;
  const { session, invites, checkpoints, events } = chosen;
  const status = chosen.gone ? null : chosen.status;
  const peers = status?.peers ?? NOBODY;
  const count = status?.crowd.peers ?? 0;
  const running = !chosen.gone && !!chosen.view && isRunning(chosen.view);
  const sample = chosen.status?.sample ?? chosen.view?.sample;
  return (
    <div className="swarm-one" key={session}>
      <div className="swarm-column">
        <Status chosen={chosen} context={context} />
        <Section title={trans.__('Curves')}>
          <Chart curves={chosen.curves} revision={chosen.curves.revision} trans={trans} theme={theme} />
        </Section>
        {sample ? (
          <Section title={trans.__('The model writes')}>
            <Sample sample={sample} trans={trans} />
          </Section>
        ) : null}
      </div>
      <div className="swarm-column">
        <Section title={trans.__('Peers')} count={count}>
          <Peers session={session} peers={peers} count={count} context={context} />
        </Section>
        <Section title={trans.__('Invites')} open={running}>
          <Invites session={session} list={invites} open={running} outside={!!chosen.view?.outside} context={context} />
        </Section>
        <Section title={trans.__('Checkpoints')} count={checkpoints.length}>
          <Checkpoints session={session} list={checkpoints} canSave={canSave(chosen)} context={context} />
        </Section>
        <Section title={trans.__('Log')} open={false}>
          <Log events={events} trans={trans} />
        </Section>
      </div>
    </div>
  );
}

function Head({ context, large }: { context: IContext; large: boolean }): JSX.Element {
  const { model, commands, trans } = context;
  return (
    <div className="swarm-head">
      {model.sessions.length ? (
        <select
          className="swarm-input"
          aria-label={trans.__('Session to be shown')}
          value={model.chosen?.session ?? ''}
          onChange={event => model.choose(event.target.value)}
        >
          {model.chosen?.gone ? <option value={model.chosen.session}>{model.chosen.session}</option> : null}
          {model.sessions.map(({ session, name, state, status }) => (
            <option key={session} value={session}>
              {`${name} · ${session} · ${stateWord(status?.state ?? state, trans)}`}
            </option>
          ))}
        </select>
      ) : (
        <span className="swarm-input swarm-quiet">{trans.__('No sessions')}</span>
      )}
      <Button
        text={trans.__('New …')}
        title={trans.__('Open a session in a new notebook')}
        label={trans.__('New session')}
        pressed={() => void commands.execute(CommandIDs.create)}
      />
      <Button
        text={trans.__('Join …')}
        title={trans.__('Take part in a session elsewhere, by its link')}
        pressed={() => void commands.execute(CommandIDs.join)}
      />
      {large || !commands.hasCommand(CommandIDs.large) ? null : (
        <Button
          text="⤢"
          title={trans.__('Show it large, in the main area')}
          label={trans.__('Show it large, in the main area')}
          pressed={() => void commands.execute(CommandIDs.large)}
        />
      )}
    </div>
  );
}

function Nothing({ context }: { context: IContext }): JSX.Element {
  const { commands, trans } = context;
  return (
    <div className="swarm-nothing">
      <h2>{trans.__('Train one model together')}</h2>
      <p>
        {trans.__(
          'Open a session on this server and invite others: kernels anywhere train the same model, each on its own data or a share of yours.'
        )}
      </p>
      <div className="swarm-buttons">
        <Button
          kind="accept"
          text={trans.__('New session …')}
          pressed={() => void commands.execute(CommandIDs.create)}
        />
        <Button text={trans.__('Join by a link …')} pressed={() => void commands.execute(CommandIDs.join)} />
        <Button text={trans.__('Open a tutorial …')} pressed={() => void commands.execute(CommandIDs.tutorial)} />
      </div>
    </div>
  );
}

/** Tells those who listen when the state changes, and only then: a reason changes all the time. */
function Announcer({ chosen, trans }: { chosen: IChosen | null; trans: TranslationBundle }): JSX.Element {
  const state = chosen?.status?.state;
  const lost = chosen?.connection === 'lost';
  const text = React.useMemo(() => {
    if (!chosen?.status) {
      return '';
    }
    const words = `${chosen.status.name}: ${stateWord(chosen.status.state, trans)}. ${chosen.status.reason}`;
    return lost ? trans.__('%1: the server does not answer.', chosen.status.name) : words;
  }, [chosen?.session, state, lost, trans]);
  return (
    <div role="status" aria-live="polite" className="swarm-hidden">
      {text}
    </div>
  );
}

function useTheme(themes: IThemeManager | null): string {
  const [theme, setTheme] = React.useState(themes?.theme ?? '');
  React.useEffect(() => {
    const changed = (): void => setTheme(themes?.theme ?? '');
    themes?.themeChanged.connect(changed);
    return () => {
      themes?.themeChanged.disconnect(changed);
    };
  }, [themes]);
  return theme;
}
