// Axes: which numbers stand at them, and how numbers are written.

/** About `count` round numbers from `low` to `high`. */
export function ticks(low: number, high: number, count: number): number[] {
  if (!(high > low) || count < 1) {
    return [low];
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find(one => one * power >= rough / 1.6) ?? 10);
  const found = [];
  for (let number = Math.ceil(low / step - 1e-9); number * step <= high + step * 1e-9; number++) {
    found.push(Number((number * step).toPrecision(12)));
  }
  return found;
}

/** Powers of ten, with 2 and 5 between them where there are few. */
export function logTicks(low: number, high: number): number[] {
  const decades = Math.log10(high / low);
  const between = decades > 3 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of between) {
      const tick = Number((factor * 10 ** power).toPrecision(12));
      if (tick >= low * 0.999 && tick <= high * 1.001) {
        found.push(tick);
      }
    }
  }
  return found;
}

/** Whole numbers only: rounds. */
export function wholeTicks(low: number, high: number, count: number): number[] {
  return [...new Set(ticks(low, high, count).map(Math.round))].filter(one => one >= low && one <= high);
}

/** At most four digits that count: 0.0312, 2.31, 1.2 k, 3.4 M. A dash for what is no finite number. */
export function short(value: number | null): string {
  if (value === null || !Number.isFinite(value)) {
    return '–';
  }
  const size = Math.abs(value);
  for (const [factor, suffix] of UNITS) {
    if (size >= factor) {
      return `${Number((value / factor).toPrecision(3))}\u202f${suffix}`;
    }
  }
  return size >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

const UNITS: readonly (readonly [number, string])[] = [
  [1e12, 'T'],
  [1e9, 'G'],
  [1e6, 'M'],
  [1e4, 'k']
];

/** Bytes in decimal units. */
export function bytes(value: number): string {
  const powers = ['B', 'kB', 'MB', 'GB', 'TB'];
  const power = value < 1 ? 0 : Math.min(Math.floor(Math.log10(value) / 3), powers.length - 1);
  return `${Number((value / 1000 ** power).toPrecision(3))}\u202f${powers[power]}`;
}
