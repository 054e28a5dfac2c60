// The extension's names, as settings and other extensions use them.

export const PLUGIN = 'jupyter-swarm:plugin';

export namespace CommandIDs {
  export const show = 'jupyter-swarm:show';
  export const large = 'jupyter-swarm:show-large';
  export const create = 'jupyter-swarm:new-session';
  export const join = 'jupyter-swarm:join';
  export const copyInvite = 'jupyter-swarm:copy-invite';
  export const insertJoin = 'jupyter-swarm:insert-join-cell';
  export const tutorial = 'jupyter-swarm:open-tutorial';
}
