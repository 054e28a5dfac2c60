// The extension: what it adds to JupyterLab and Notebook, and what it needs of them.

import { ILabShell, ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IThemeManager, WidgetTracker } from '@jupyterlab/apputils';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { SwarmApi } from './api.js';
import { addCommands } from './commands.js';
import { CommandIDs, PLUGIN } from './ids.js';
import { SwarmModel } from './model.js';
import { Notebooks } from './notebooks.js';
import { type IPanelOptions, SwarmPanel } from './panel.js';
import { StatusItem } from './statusbar.js';

const CHOICE = 'jupyter-swarm:session';

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: 'Watch and steer a model that many kernels train together.',
  autoStart: true,
  optional: [
    ITranslator,
    ISettingRegistry,
    ILayoutRestorer,
    ILabShell,
    ICommandPalette,
    ILauncher,
    IStatusBar,
    INotebookTracker,
    IThemeManager,
    IStateDB
  ],
  activate
};

interface ISettings {
  readonly statusBar: boolean;
  readonly side: 'left' | 'right';
}

async function activate(
  app: JupyterFrontEnd,
  translator: ITranslator | null,
  registry: ISettingRegistry | null,
  restorer: ILayoutRestorer | null,
  labShell: ILabShell | null,
  palette: ICommandPalette | null,
  launcher: ILauncher | null,
  statusBar: IStatusBar | null,
  tracker: INotebookTracker | null,
  themes: IThemeManager | null,
  state: IStateDB | null
): Promise<void> {
  const trans = (translator ?? nullTranslator).load('jupyter_swarm');
  const model = new SwarmModel(new SwarmApi(app.serviceManager.serverSettings));
  const visible = new Set<SwarmPanel>();
  const options: Omit<IPanelOptions, 'large'> = {
    model,
    commands: app.commands,
    trans,
    themes,
    seen: (one, is) => {
      visible[is ? 'add' : 'delete'](one);
      model.watch(visible.size > 0);
    }
  };
  const panel = new SwarmPanel({ ...options, large: false });
  const show = (): void => app.shell.activateById(panel.id);

  const large = new WidgetTracker<SwarmPanel>({ namespace: 'jupyter-swarm' });
  const showLarge = (): void => {
    const shown = large.currentWidget ?? new SwarmPanel({ ...options, large: true });
    if (!shown.isAttached) {
      app.shell.add(shown, 'main');
      void large.add(shown);
    }
    app.shell.activateById(shown.id);
  };
  addCommands({
    app,
    model,
    notebooks: new Notebooks(app, tracker),
    trans,
    show,
    showLarge: labShell ? showLarge : null
  });

  const settings = await read(registry);
  app.shell.add(panel, settings.side, { rank: 700, type: 'Swarm' });
  restorer?.add(panel, panel.id);
  void restorer?.restore(large, { command: CommandIDs.large, name: () => 'large' });

  for (const command of Object.values(CommandIDs)) {
    if (app.commands.hasCommand(command)) {
      palette?.addItem({ command, category: trans.__('Training together'), args: { isPalette: true } });
    }
  }
  launcher?.add({
    command: CommandIDs.create,
    category: trans.__('Other'),
    rank: 1,
    args: { isLauncher: true }
  });
  if (statusBar && settings.statusBar) {
    const item = new StatusItem(model, trans, show);
    statusBar.registerStatusItem('jupyter-swarm', {
      item,
      align: 'left',
      rank: 50,
      isActive: () => item.useful,
      activeStateChanged: model.changed
    });
  }
  remember(model, state);
  // A cell that hosts or ends a session is the quickest news of it.
  NotebookActions.executed.connect((_, { cell }) => {
    if (cell.model.sharedModel.getSource().includes('%swarm')) {
      void model.refresh().catch(() => undefined);
    }
  });
}

async function read(registry: ISettingRegistry | null): Promise<ISettings> {
  try {
    const settings = await registry?.load(PLUGIN);
    return {
      statusBar: settings?.composite.statusBar !== false,
      side: settings?.composite.side === 'right' ? 'right' : 'left'
    };
  } catch {
    return { statusBar: true, side: 'left' };
  }
}

/** A page that is loaded again shows the same session. */
function remember(model: SwarmModel, state: IStateDB | null): void {
  let kept = '';
  void state?.fetch(CHOICE).then(value => {
    kept = typeof value === 'string' ? value : '';
    model.preferred = kept;
    if (kept && model.sessions.some(one => one.session === kept)) {
      model.choose(kept);
    }
  });
  model.changed.connect(() => {
    const session = model.chosen?.session ?? '';
    if (session && session !== kept) {
      kept = session;
      void state?.save(CHOICE, session);
    }
  });
}

export default plugin;
