// Numbers and times in words.

import type { TranslationBundle } from '@jupyterlab/translation';

import { short } from './ticks.js';

export function percent(share: number): string {
  return `${Number((100 * share).toPrecision(share < 0.1 ? 1 : 2))}\u202f%`;
}

export function speed(samples: number, trans: TranslationBundle): string {
  return trans.__('%1 samples/s', short(samples));
}

/** What is measured of a peer, in words; what is not yet, is left out. */
export function measured(peer: IMeasured, trans: TranslationBundle): string[] {
  const { up, down, round_trip, step_seconds, free_memory } = peer;
  return [
    up || down ? trans.__('↑ %1 ↓ %2 Mbit/s', mbit(up), mbit(down)) : '',
    round_trip ? trans.__('%1 ms round trip', digits(1000 * round_trip)) : '',
    step_seconds ? trans.__('%1 s/step', digits(step_seconds)) : '',
    free_memory ? trans.__('%1 GB free', digits(free_memory / 1e9)) : ''
  ].filter(Boolean);
}

interface IMeasured {
  readonly up: number;
  readonly down: number;
  readonly round_trip: number;
  readonly step_seconds: number;
  readonly free_memory: number;
}

function mbit(rate: number): string {
  return rate ? digits(8e-6 * rate) : '–';
}

/** Two digits that count: what is measured changes all the time. */
function digits(value: number): string {
  return short(Number(value.toPrecision(2)));
}

/** A moment, to the minute; the date only where it is not today's. */
export function moment(seconds: number): string {
  const date = new Date(1000 * seconds);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, { timeStyle: 'short', ...(today ? {} : { dateStyle: 'medium' }) });
}

/** held_out_accuracy → held-out accuracy. */
export function metric(name: string, trans: TranslationBundle): string {
  const plain = name.replace(/^held_out_/, '').replaceAll('_', ' ');
  if (name.startsWith('held_out_')) {
    return trans.__('held-out %1', plain);
  }
  return name === 'loss' ? trans.__('training loss') : plain;
}
