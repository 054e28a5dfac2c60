// The numbers behind the chart: one series a metric, by version, in kept memory that grows.

import type { IMetric } from './api.js';

/** Points by ascending x. */
export class Series {
  length = 0;
  private _x = new Float64Array(256);
  private _y = new Float64Array(256);

  /** The points so far; valid until the next `put`. */
  get x(): Float64Array {
    return this._x.subarray(0, this.length);
  }

  get y(): Float64Array {
    return this._y.subarray(0, this.length);
  }

  /** Add a point, or change the one at `x`. */
  put(x: number, y: number): void {
    const place = this.length && this._x[this.length - 1]! >= x ? lowerBound(this.x, x) : this.length;
    if (place < this.length && this._x[place] === x) {
      this._y[place] = y;
      return;
    }
    if (this.length === this._x.length) {
      this._x = grown(this._x);
      this._y = grown(this._y);
    }
    this._x.copyWithin(place + 1, place, this.length);
    this._y.copyWithin(place + 1, place, this.length);
    this._x[place] = x;
    this._y[place] = y;
    this.length += 1;
  }
}

/** The curves of one session: the training loss and the held-out metrics. `revision` changes with every point. */
export class Curves {
  readonly series = new Map<string, Series>();
  revision = 0;
  /** All versions up to this one are known. */
  known = -1;

  put(name: string, version: number, value: number | null): void {
    if (value === null || !Number.isFinite(value)) {
      return;
    }
    let series = this.series.get(name);
    if (!series) {
      this.series.set(name, (series = new Series()));
    }
    series.put(version, value);
    this.revision += 1;
  }

  /** Rows of the record. */
  take(rows: readonly IMetric[]): void {
    for (const row of rows) {
      if (row.name === 'loss' || row.name.startsWith(HELD_OUT)) {
        this.put(row.name, row.version, row.mean);
      }
      this.known = Math.max(this.known, row.version);
    }
  }

  get lastVersion(): number {
    return Math.max(0, ...[...this.series.values()].map(one => one.x[one.length - 1] ?? 0));
  }
}

/** Of so many versions before the last one that is known values may still come: an evaluation goes on in later rounds. */
export const LATE = 10;

export const HELD_OUT = 'held_out_';

/** The first index whose value is not below `value`. */
export function lowerBound(sorted: Float64Array, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! < value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/** Means of `bins` runs of equally many neighbours each; all points if there are not more than that. */
export function means(series: Series, bins: number): { x: Float64Array; y: Float64Array } {
  const count = series.length;
  if (count <= bins) {
    return { x: series.x, y: series.y };
  }
  const x = new Float64Array(bins);
  const y = new Float64Array(bins);
  for (let bin = 0; bin < bins; bin++) {
    const start = Math.floor((bin * count) / bins);
    const stop = Math.floor(((bin + 1) * count) / bins);
    for (let place = start; place < stop; place++) {
      x[bin]! += series.x[place]! / (stop - start);
      y[bin]! += series.y[place]! / (stop - start);
    }
  }
  return { x, y };
}

function grown(values: Float64Array): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(2 * values.length);
  larger.set(values);
  return larger;
}
