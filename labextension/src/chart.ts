// One plot on a canvas: drawn anew in one go, so nothing flickers, and in time that does not grow with the points.

import { type Series, lowerBound, means } from './curves.js';
import { logTicks, short, ticks, wholeTicks } from './ticks.js';

export interface ILine {
  readonly label: string;
  readonly series: Series;
  /** The CSS variable of its colour. */
  readonly colour: string;
  /** Of many points the means are drawn strongly, and each point faintly behind them; else every point has its mark. */
  readonly many: boolean;
}

export interface IPlot {
  readonly lines: readonly ILine[];
  /** The name of what is plotted, beside the axis. */
  readonly y: string;
  readonly x: string;
  /** The x that is pointed at, if any. */
  readonly cursor: number | null;
}

const BINS = 100;
const LOG_RATIO = 30;

interface IScale {
  readonly low: number;
  readonly high: number;
  readonly log: boolean;
  readonly at: (value: number) => number;
}

/** Where things are, in CSS pixels: for the pointer to find its x. */
export interface IFrame {
  readonly left: number;
  readonly right: number;
  readonly first: number;
  readonly last: number;
}

/** Draw `plot` so that it fills `canvas`; the text is as large as the canvas's. Returns where the data are. */
export function draw(canvas: HTMLCanvasElement, plot: IPlot): IFrame {
  const style = getComputedStyle(canvas);
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
  }
  const pen = canvas.getContext('2d')!;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const em = parseFloat(style.fontSize);
  pen.font = `${em}px ${style.fontFamily}`;
  pen.lineJoin = 'round';
  const colour = (name: string): string => style.getPropertyValue(name).trim() || style.color;

  const shown = plot.lines.filter(line => line.series.length);
  const [first, last] = [firstOf(shown), Math.max(lastOf(shown), firstOf(shown) + 1)];
  const names = legendOf(pen, shown, plot.cursor, width - 2 * em, em);
  const [top, bottom] = [1.7 * em * names.rows + 0.7 * em, height - 2.6 * em];
  const y = scaleOf(shown, top, bottom);
  const yTicks = y.log ? logTicks(y.low, y.high) : ticks(y.low, y.high, Math.max(3, (bottom - top) / (2.5 * em)));
  const labels = yTicks.map(short);
  const left = Math.max(2.5 * em, ...labels.map(text => pen.measureText(text).width + 0.9 * em));
  const right = width - 1.2 * em;
  const atX = (value: number): number => left + ((value - first) / (last - first)) * (right - left);
  const frame = { left, right, first, last };

  if (!shown.length) {
    pen.fillStyle = colour('--swarm-axis');
    pen.textAlign = 'center';
    pen.fillText(plot.y, width / 2, height / 2);
    return frame;
  }

  // The axes and their grid.
  pen.strokeStyle = colour('--swarm-grid');
  pen.fillStyle = colour('--swarm-axis');
  pen.lineWidth = 1;
  pen.textBaseline = 'middle';
  pen.textAlign = 'right';
  yTicks.forEach((tick, number) => {
    const place = Math.round(y.at(tick)) + 0.5;
    stroke(pen, [left, right], [place, place]);
    pen.fillText(labels[number]!, left - 0.5 * em, place);
  });
  pen.textBaseline = 'alphabetic';
  pen.textAlign = 'center';
  for (const tick of wholeTicks(first, last, Math.max(2, (right - left) / (6 * em)))) {
    pen.fillText(short(tick), atX(tick), height - 1.45 * em);
  }
  pen.fillText(plot.x, (left + right) / 2, height - 0.25 * em);

  // Faint points first, so that no line hides behind another's.
  for (const line of shown) {
    if (line.many && line.series.length > BINS) {
      pen.strokeStyle = colour(line.colour);
      pen.globalAlpha = 0.35;
      pen.lineWidth = 1;
      strokeEnvelope(pen, line.series, atX, y.at);
      pen.globalAlpha = 1;
    }
  }
  for (const line of shown) {
    const { x: xs, y: ys } = line.many ? means(line.series, BINS) : line.series;
    pen.strokeStyle = pen.fillStyle = colour(line.colour);
    pen.lineWidth = Math.max(2, em / 5);
    stroke(pen, xs.map(atX), ys.map(y.at));
    if (!line.many || xs.length === 1) {
      const size = xs.length > 40 ? 0.14 * em : 0.26 * em;
      xs.forEach((value, place) => dot(pen, atX(value), y.at(ys[place]!), size));
    }
  }
  pen.textAlign = 'left';
  pen.textBaseline = 'middle';
  for (const { line, text, x, row } of names.items) {
    const place = row * 1.7 * em + em;
    pen.strokeStyle = pen.fillStyle = colour(line.colour);
    stroke(pen, [x, x + 1.4 * em], [place, place]);
    if (!line.many) {
      dot(pen, x + 0.7 * em, place, 0.26 * em);
    }
    pen.fillStyle = colour('--swarm-text');
    pen.fillText(text, x + 1.8 * em, place);
  }
  if (plot.cursor !== null) {
    pen.strokeStyle = colour('--swarm-axis');
    pen.lineWidth = 1;
    const place = Math.round(atX(plot.cursor)) + 0.5;
    pen.setLineDash([3, 3]);
    stroke(pen, [place, place], [top, bottom]);
    pen.setLineDash([]);
    for (const line of shown) {
      const found = nearest(line.series, plot.cursor);
      pen.fillStyle = colour(line.colour);
      dot(pen, atX(line.series.x[found]!), y.at(line.series.y[found]!), 0.32 * em);
    }
  }
  return frame;
}

/** The index of the point of `series` that is nearest to `x`. */
export function nearest(series: Series, x: number): number {
  const above = lowerBound(series.x, x);
  if (above === series.length) {
    return above - 1;
  }
  return above > 0 && x - series.x[above - 1]! < series.x[above]! - x ? above - 1 : above;
}

function firstOf(lines: readonly ILine[]): number {
  return lines.length ? Math.min(...lines.map(line => line.series.x[0]!)) : 0;
}

function lastOf(lines: readonly ILine[]): number {
  return Math.max(0, ...lines.map(line => line.series.x[line.series.length - 1]!));
}

/** The y axis: logarithmic where a loss spans much; a few wild first values do not squeeze the rest. */
function scaleOf(lines: readonly ILine[], top: number, bottom: number): IScale {
  let [low, high] = [Infinity, -Infinity];
  for (const { series } of lines) {
    for (const value of series.y) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (!(high >= low)) {
    [low, high] = [0, 1];
  }
  const log = low > 0 && high / low > LOG_RATIO;
  const [from, to] = log ? [Math.log(low), Math.log(high)] : [low, high];
  const room = 0.04 * (to - from) || Math.abs(to) * 0.1 || 1;
  const height = to - from + 2 * room;
  const at = (value: number): number =>
    bottom - (((log ? Math.log(Math.max(value, low)) : value) - from + room) / height) * (bottom - top);
  const [least, most] = [from - room, to + room];
  return { low: log ? Math.exp(least) : least, high: log ? Math.exp(most) : most, log, at };
}

function stroke(pen: CanvasRenderingContext2D, xs: ArrayLike<number>, ys: ArrayLike<number>): void {
  pen.beginPath();
  for (let place = 0; place < xs.length; place++) {
    pen.lineTo(xs[place]!, ys[place]!);
  }
  pen.stroke();
}

/** Every point, or, where several fall on one pixel, the least and the largest of them. */
function strokeEnvelope(
  pen: CanvasRenderingContext2D,
  series: Series,
  atX: (value: number) => number,
  atY: (value: number) => number
): void {
  pen.beginPath();
  for (let start = 0; start < series.length;) {
    const pixel = Math.round(atX(series.x[start]!));
    let [low, high] = [series.y[start]!, series.y[start]!];
    let stop = start + 1;
    for (; stop < series.length && Math.round(atX(series.x[stop]!)) === pixel; stop++) {
      low = Math.min(low, series.y[stop]!);
      high = Math.max(high, series.y[stop]!);
    }
    pen.lineTo(pixel, atY(low));
    if (high > low) {
      pen.lineTo(pixel, atY(high));
    }
    start = stop;
  }
  pen.stroke();
}

function dot(pen: CanvasRenderingContext2D, x: number, y: number, radius: number): void {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

interface ILegend {
  readonly rows: number;
  readonly items: readonly { line: ILine; text: string; x: number; row: number }[];
}

/** Above the plot, each name with its value: the latest, or the one that is pointed at. */
function legendOf(
  pen: CanvasRenderingContext2D,
  lines: readonly ILine[],
  cursor: number | null,
  width: number,
  em: number
): ILegend {
  let [x, row] = [em, 0];
  const items = lines.map(line => {
    const { series } = line;
    const text = `${line.label} ${short(series.y[cursor === null ? series.length - 1 : nearest(series, cursor)]!)}`;
    // As wide as any value, so that nothing moves when it changes.
    const needed = pen.measureText(`${line.label} 0.0000000`).width + 2.6 * em;
    if (x > em && x + needed > width + em) {
      [x, row] = [em, row + 1];
    }
    const item = { line, text, x, row };
    x += needed;
    return item;
  });
  return { rows: row + 1, items };
}
