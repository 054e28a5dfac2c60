// Cells put into notebooks: the one that is open, or a new one.

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { type INotebookTracker, NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import { ServerConnection } from '@jupyterlab/services';

/** Raises what the contents and the kernels of the server raise. */
export class Notebooks {
  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _tracker: INotebookTracker | null
  ) {}

  /** Put a cell below the active one of the notebook in front, or into a new notebook in `folder` if there is none. */
  async insert(source: string, run: boolean, folder = ''): Promise<void> {
    const used = this._tracker?.currentWidget;
    // On a page that was loaded again the one that was used last may lie behind the one that is seen.
    const panel = used?.isVisible ? used : (this._tracker?.find(one => one.isVisible) ?? used);
    if (!panel) {
      return this.create(source, run, folder);
    }
    await panel.context.ready;
    const { content } = panel;
    const active = content.activeCell?.model;
    if (!active || active.type !== 'code' || active.sharedModel.getSource().trim()) {
      NotebookActions.insertBelow(content);
    }
    content.activeCell!.model.sharedModel.setSource(source);
    this._app.shell.activateById(panel.id);
    if (run) {
      await this._run(panel);
    }
  }

  /** A new notebook with this cell. Where the front end opens it on another page it is left to be run there. */
  async create(source: string, run: boolean, folder = ''): Promise<void> {
    const { kernel, display } = await this._python();
    const cell = { cell_type: 'code', id: 'swarm', metadata: {}, source, outputs: [], execution_count: null };
    await this.open(await this._save(folder, [cell], { name: kernel, display_name: display, language: 'python' }), run);
  }

  /** Open a notebook, and run its first cell. */
  async open(path: string, run = false): Promise<void> {
    const opened: unknown = await this._app.commands.execute('docmanager:open', { path, factory: 'Notebook' });
    if (run && opened instanceof NotebookPanel) {
      await opened.context.ready;
      this._app.shell.activateById(opened.id);
      await this._run(opened);
    }
  }

  /** Write a notebook, unless it is there already; returns its path. */
  async keep(path: string, notebook: unknown): Promise<string> {
    const { contents } = this._app.serviceManager;
    try {
      await contents.get(path, { content: false });
    } catch (error) {
      // Whatever else goes wrong, there may be one that somebody has changed.
      if (!(error instanceof ServerConnection.ResponseError) || error.response.status !== 404) {
        throw error;
      }
      const folder = path.split('/').slice(0, -1).join('/');
      if (folder) {
        await contents.save(folder, { type: 'directory' });
      }
      await contents.save(path, { type: 'notebook', format: 'json', content: notebook });
    }
    return path;
  }

  private async _save(folder: string, cells: unknown[], kernelspec: object): Promise<string> {
    const { contents } = this._app.serviceManager;
    const { path } = await contents.newUntitled({ path: folder, type: 'notebook' });
    const content = { nbformat: 4, nbformat_minor: 5, metadata: { kernelspec }, cells };
    await contents.save(path, { type: 'notebook', format: 'json', content });
    return path;
  }

  private async _run(panel: NotebookPanel): Promise<void> {
    await panel.sessionContext.ready;
    await this._app.commands.execute('notebook:run-cell');
  }

  /** The server's default kernel if it speaks Python, else any that does. */
  private async _python(): Promise<{ kernel: string; display: string }> {
    const manager = this._app.serviceManager.kernelspecs;
    await manager.ready;
    const specs = Object.values(manager.specs?.kernelspecs ?? {}).filter(spec => spec?.language === 'python');
    const spec = specs.find(one => one?.name === manager.specs?.default) ?? specs[0];
    return { kernel: spec?.name ?? 'python3', display: spec?.display_name ?? 'Python 3' };
  }
}
