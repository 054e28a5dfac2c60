"use strict";
/** The curve: `chart.draw(svg, training, heldOut)`. Both are lists of [round, loss] in the order of rounds. */
const chart = (() => {
  const MOST = 120; // points of a line; more are thinned to means, with their range behind
  const LOG_RATIO = 30;
  const DOTS = 40;

  const make = (name, facts, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  /** At most MOST pieces: {x, mean, low, high}. */
  function thin(points) {
    const pieces = Math.min(points.length, MOST);
    return Array.from({ length: pieces }, (_, number) => {
      const from = Math.floor((number * points.length) / pieces);
      const those = points.slice(from, Math.floor(((number + 1) * points.length) / pieces));
      const values = those.map((point) => point[1]);
      const sum = (list) => list.reduce((total, value) => total + value, 0);
      return {
        x: sum(those.map((point) => point[0])) / those.length,
        mean: sum(values) / values.length,
        low: Math.min(...values),
        high: Math.max(...values),
      };
    });
  }

  /** Round numbers from `low` to `high`, about `count`. */
  function ticks(low, high, count) {
    const rough = (high - low) / Math.max(count, 1) || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((one) => one * power >= rough * 0.999) * power;
    const first = Math.ceil(low / step - 1e-9);
    const found = [];
    for (let number = first; number * step <= high + 1e-9 * step; number += 1) found.push(number * step);
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
      for (const one of [1, 2, 5]) found.push(one * 10 ** power);
    const inside = found.filter((value) => value >= low && value <= high);
    return inside.length > 7 ? inside.filter((value) => Math.abs(Math.log10(value) % 1) < 1e-9) : inside;
  }

  const plain = (value) => String(Number(value.toPrecision(6)));

  /** What both axes span; the loss is drawn by its logarithm where it falls far. */
  function axes(training, heldOut) {
    const all = [...training.flatMap((piece) => [piece.low, piece.high]), ...heldOut.map((piece) => piece.mean)];
    const low = Math.min(...all);
    const high = Math.max(...all);
    const log = low > 0 && high > LOG_RATIO * low;
    const room = 0.06 * (high - low) || 0.06 * Math.abs(high) || 1;
    const rounds = [...training, ...heldOut].map((piece) => piece.x);
    return {
      log,
      low: log ? low / 1.1 : low - room,
      high: log ? high * 1.1 : high + room,
      first: Math.min(...rounds),
      last: Math.max(...rounds, Math.min(...rounds) + 1),
    };
  }

  function draw(svg, trainingPoints, heldOutPoints) {
    const { width, height } = svg.getBoundingClientRect();
    svg.replaceChildren();
    if (!width || !height || !(trainingPoints.length + heldOutPoints.length)) return;
    const training = thin(trainingPoints);
    const heldOut = thin(heldOutPoints);
    const span = axes(training, heldOut);
    const em = parseFloat(getComputedStyle(svg).fontSize);
    const levels = span.log ? logTicks(span.low, span.high) : ticks(span.low, span.high, height / (3 * em));
    const left = (Math.max(...levels.map((level) => plain(level).length), 1) * 0.6 + 0.6) * em;
    const [right, top, bottom] = [width - 0.7 * em, 0.7 * em, height - 1.7 * em];
    const scale = span.log ? Math.log : Number;
    const atX = (round) => left + ((round - span.first) / (span.last - span.first)) * (right - left);
    const atY = (loss) =>
      bottom - ((scale(loss) - scale(span.low)) / (scale(span.high) - scale(span.low))) * (bottom - top);
    const path = (pieces, value) => pieces.map((piece) => `${atX(piece.x).toFixed(1)},${atY(value(piece)).toFixed(1)}`);

    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const level of levels) {
      const y = atY(level);
      svg.append(
        make("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
        make("text", { x: left - 0.5 * em, y: y + 0.35 * em, "text-anchor": "end" }, plain(level)),
      );
    }
    svg.append(make("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    const wanted = ticks(span.first, span.last, Math.max(2, (right - left) / (5.5 * em)));
    for (const round of wanted.filter((one) => Number.isInteger(one) && atX(one) < right - 4.2 * em))
      svg.append(make("text", { x: atX(round), y: height - 0.35 * em, "text-anchor": "middle" }, plain(round)));
    svg.append(make("text", { x: right, y: height - 0.35 * em, "text-anchor": "end", class: "quiet-text" }, "round"));
    if (trainingPoints.length > MOST) {
      const range = [...path(training, (piece) => piece.high), ...path(training, (piece) => piece.low).reverse()];
      svg.append(make("polygon", { class: "band", points: range.join(" ") }));
    }
    const mean = (piece) => piece.mean;
    svg.append(make("polyline", { class: "line training", points: path(training, mean).join(" ") }));
    svg.append(make("polyline", { class: "line held-out", points: path(heldOut, mean).join(" ") }));
    for (const piece of heldOut.length <= DOTS ? heldOut : heldOut.slice(-1))
      svg.append(make("circle", { class: "dot", cx: atX(piece.x), cy: atY(piece.mean), r: 0.28 * em }));
    for (const piece of training.slice(-1))
      svg.append(make("circle", { class: "dot training", cx: atX(piece.x), cy: atY(piece.mean), r: 0.28 * em }));
  }

  return { draw };
})();
