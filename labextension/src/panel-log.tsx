// What has happened, the newest first.

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { IEvent } from './api.js';
import { moment } from './format.js';

export const Log = React.memo(function Log(props: {
  events: readonly IEvent[];
  trans: TranslationBundle;
}): JSX.Element {
  const { events, trans } = props;
  if (!events.length) {
    return <p className="swarm-quiet">{trans.__('Nothing yet.')}</p>;
  }
  const words = { info: '', warning: trans.__('Warning: '), error: trans.__('Error: ') };
  return (
    <ol className="swarm-log" tabIndex={0} aria-label={trans.__('What has happened, the newest first')}>
      {[...events].reverse().map((event, place) => (
        <li key={events.length - place} data-level={event.level}>
          <time>{moment(event.unix_time)}</time>{' '}
          <span>
            {event.level === 'info' ? null : <strong>{words[event.level]}</strong>}
            {event.text}
          </span>
        </li>
      ))}
    </ol>
  );
});
