// The live chart. With the pointer, or the arrow keys, the values of one round can be read.

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { type IFrame, type ILine, draw, nearest } from './chart.js';
import { type Curves, HELD_OUT } from './curves.js';
import { metric } from './format.js';
import { short } from './ticks.js';

const LOSS = `${HELD_OUT}loss`;
/** Says what the loss says. */
const REDUNDANT = `${HELD_OUT}perplexity`;

/** revision: of the curves, which are drawn anew when it changes. */
export const Chart = React.memo(function Chart(props: {
  curves: Curves;
  revision: number;
  trans: TranslationBundle;
  theme: string;
}): JSX.Element {
  const { curves, trans, theme } = props;
  const others = [...curves.series.keys()].filter(name => ![LOSS, REDUNDANT, 'loss'].includes(name)).sort();
  return (
    <div className="swarm-curves">
      <Plot curves={curves} names={['loss', LOSS]} y={trans.__('loss')} trans={trans} theme={theme} />
      {others.map(name => (
        <Plot key={name} curves={curves} names={[name]} y={metric(name, trans)} trans={trans} theme={theme} small />
      ))}
    </div>
  );
});

interface IPlotProps {
  readonly curves: Curves;
  readonly names: readonly string[];
  readonly y: string;
  readonly trans: TranslationBundle;
  /** Drawn anew when it changes. */
  readonly theme: string;
  readonly small?: boolean;
}

function Plot({ curves, names, y, trans, theme, small }: IPlotProps): JSX.Element {
  const canvas = React.useRef<HTMLCanvasElement>(null);
  const frame = React.useRef<IFrame | null>(null);
  const [cursor, setCursor] = React.useState<number | null>(null);
  const [, resized] = React.useReducer((count: number) => count + 1, 0);
  const lines = linesOf(curves, names, trans);

  React.useLayoutEffect(() => {
    const observer = new ResizeObserver(() => resized());
    observer.observe(canvas.current!);
    return () => observer.disconnect();
  }, []);
  React.useLayoutEffect(() => {
    if (canvas.current!.clientWidth) {
      const plot = { lines, y: lines.length ? y : trans.__('no rounds yet'), x: trans.__('round'), cursor };
      frame.current = draw(canvas.current!, plot);
    }
  });

  const point = (event: React.PointerEvent): void => {
    const where = frame.current;
    if (where) {
      const part = (event.nativeEvent.offsetX - where.left) / (where.right - where.left);
      setCursor(part < -0.05 || part > 1.05 ? null : where.first + part * (where.last - where.first));
    }
  };
  const step = (event: React.KeyboardEvent): void => {
    const series = lines[0]?.series;
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (event.key === 'Escape') {
      setCursor(null);
    } else if (by && series?.length) {
      const place = cursor === null ? series.length - 1 : nearest(series, cursor) + by;
      setCursor(series.x[Math.min(Math.max(place, 0), series.length - 1)]!);
      event.preventDefault();
    }
  };
  return (
    <div
      className="swarm-plot"
      role="slider"
      tabIndex={0}
      aria-label={trans.__('Curve of %1 by round; the arrow keys read its values', y)}
      aria-valuemin={0}
      aria-valuemax={Math.max(1, curves.lastVersion)}
      aria-valuenow={Math.round(cursor ?? curves.lastVersion)}
      aria-valuetext={valuesAt(lines, cursor ?? curves.lastVersion, trans)}
      onKeyDown={step}
      onBlur={() => setCursor(null)}
    >
      <canvas
        ref={canvas}
        className={small ? 'swarm-mod-small' : ''}
        data-theme={theme}
        aria-hidden="true"
        onPointerMove={point}
        onPointerLeave={() => setCursor(null)}
      />
    </div>
  );
}

function linesOf(curves: Curves, names: readonly string[], trans: TranslationBundle): ILine[] {
  return names.flatMap(name => {
    const series = curves.series.get(name);
    const label = name === 'loss' ? trans.__('training') : name === LOSS ? trans.__('held-out') : metric(name, trans);
    const colour = name === 'loss' ? '--swarm-training' : '--swarm-held-out';
    return series?.length ? [{ label, series, colour, many: name === 'loss' }] : [];
  });
}

function valuesAt(lines: readonly ILine[], x: number, trans: TranslationBundle): string {
  if (!lines.length) {
    return trans.__('no rounds yet');
  }
  const values = lines.map(({ label, series }) => `${label} ${short(series.y[nearest(series, x)]!)}`);
  return trans.__('round %1: %2', Math.round(x), values.join(', '));
}
