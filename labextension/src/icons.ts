// Our own icon; the others are JupyterLab's.

import { LabIcon } from '@jupyterlab/ui-components';

const SWARM = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M11.2 6v5.2L6.6 15l1 1.2 4.4-3.6 4.4 3.6 1-1.2-4.6-3.8V6z"/>
    <circle cx="12" cy="12" r="3.4"/><circle cx="12" cy="4.4" r="2.6"/>
    <circle cx="5" cy="17.6" r="2.6"/><circle cx="19" cy="17.6" r="2.6"/>
  </g>
</svg>`;

export const swarmIcon = new LabIcon({ name: 'jupyter-swarm:swarm', svgstr: SWARM });
