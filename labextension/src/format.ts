// Numbers and times in words.

import type { TranslationBundle } from '@jupyterlab/translation';

import { short } from './ticks.js';

export function percent(share: number): string {
  return `${Number((100 * share).toPrecision(share < 0.1 ? 1 : 2))}\u202f%`;
}

export function speed(samples: number, trans: TranslationBundle): string {
  return trans.__('%1 samples/s', short(samples));
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
