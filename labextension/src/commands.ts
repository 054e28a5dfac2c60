// The commands, for the palette, the launcher and the panel's buttons.

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { InputDialog, Notification, showErrorMessage } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';

import { copy } from './clipboard.js';
import { askForLink, askForSession } from './dialogs.js';
import { swarmIcon } from './icons.js';
import { CommandIDs } from './ids.js';
import { hostCell, joinCell } from './links.js';
import { type SwarmModel, isRunning } from './model.js';
import { type Notebooks } from './notebooks.js';
import { reachOf } from './panel-invites.js';

const TUTORIALS = 'swarm-tutorials';
const SHOWN = 8000;

export interface ICommandOptions {
  readonly app: JupyterFrontEnd;
  readonly model: SwarmModel;
  readonly notebooks: Notebooks;
  readonly trans: TranslationBundle;
  readonly show: () => void;
  /** Null where there is no main area for it. */
  readonly showLarge: (() => void) | null;
}

export function addCommands({ app, model, notebooks, trans, show, showLarge }: ICommandOptions): void {
  const running = (): boolean => !!model.chosen?.view && isRunning(model.chosen.view) && !model.chosen.gone;
  const add = (
    id: string,
    label: string,
    caption: string,
    run: (args: IArgs) => Promise<void> | void,
    enabled = () => true
  ): void => {
    app.commands.addCommand(id, {
      label: args => (args.isLauncher ? trans.__('Train together') : label),
      caption,
      icon: args => (args.isPalette ? undefined : swarmIcon),
      isEnabled: enabled,
      describedBy: { args: { type: 'object', properties: { cwd: { type: 'string' } } } },
      execute: async args => {
        try {
          await run(args);
        } catch (error) {
          await showErrorMessage(label, error instanceof Error ? error : String(error));
        }
      }
    });
  };

  add(CommandIDs.show, trans.__('Show Sessions'), trans.__('Sessions of this server: peers, curves, invites'), show);
  if (showLarge) {
    add(CommandIDs.large, trans.__('Show Session Large'), trans.__('In the main area, for a projector'), showLarge);
  }
  add(
    CommandIDs.create,
    trans.__('New Session …'),
    trans.__('Open a session on this server, in a new notebook'),
    async ({ cwd }) => {
      const wanted = await askForSession(trans);
      if (wanted) {
        await notebooks.create(hostCell(wanted.name, wanted.recipe, wanted.rounds), true, cwd ?? '');
        show();
      }
    }
  );
  add(
    CommandIDs.join,
    trans.__('Join a Session …'),
    trans.__('Take part in a session, by its link, in the notebook that is open or in a new one'),
    async ({ cwd }) => {
      const link = await askForLink(trans);
      if (link) {
        await notebooks.insert(joinCell(link, await nameOf(app)), true, cwd ?? '');
      }
    }
  );
  add(
    CommandIDs.copyInvite,
    trans.__('Copy an Invite'),
    trans.__('The link by which others take part in the session that is shown'),
    async () => {
      const invite = await model.inviteFor(model.chosen!.session, 'peer');
      if (await copy(invite.link, trans)) {
        const said = `${trans.__('The link is copied.')} ${reachOf(invite, !!model.chosen?.view?.outside, trans)}`;
        // Without a time it would be shown to those only who look for it.
        Notification.success(said, { autoClose: SHOWN });
      }
    },
    running
  );
  add(
    CommandIDs.insertJoin,
    trans.__('Insert a Cell that Joins'),
    trans.__('Into the notebook that is open, with an invite to the session that is shown'),
    async () => {
      const invite = await model.inviteFor(model.chosen!.session, 'peer');
      await notebooks.insert(joinCell(invite.link, await nameOf(app)), false);
    },
    running
  );
  let was = running();
  model.changed.connect(() => {
    if (was !== running()) {
      was = running();
      app.commands.notifyCommandChanged(CommandIDs.copyInvite);
      app.commands.notifyCommandChanged(CommandIDs.insertJoin);
    }
  });
  add(CommandIDs.tutorial, trans.__('Open a Tutorial …'), trans.__('A copy of it, in your files'), () =>
    openTutorial(notebooks, trans)
  );
}

interface IArgs {
  readonly cwd?: string;
}

/** How others see this user's kernels: as Jupyter knows them. */
async function nameOf(app: JupyterFrontEnd): Promise<string> {
  const { user } = app.serviceManager;
  await user.ready;
  return user.identity?.display_name || user.identity?.name || '';
}

async function openTutorial(notebooks: Notebooks, trans: TranslationBundle): Promise<void> {
  const { default: tutorials } = await import('./tutorials.json');
  const chosen = await InputDialog.getItem({
    title: trans.__('Open a tutorial'),
    label: trans.__('It is copied to %1, where you can change it.', TUTORIALS),
    items: tutorials.map(one => one.title),
    okLabel: trans.__('Open')
  });
  const found = tutorials.find(one => one.title === chosen.value);
  if (chosen.button.accept && found) {
    await notebooks.open(await notebooks.keep(`${TUTORIALS}/${found.file}`, found.notebook));
  }
}
