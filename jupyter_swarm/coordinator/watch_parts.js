"use strict";
/** Elements of the page, and how numbers and reasons are written on it. */

const part = (id) => document.getElementById(id);

const count = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });
const short = (value) =>
  value < 1000
    ? String(Number(value.toPrecision(3)))
    : value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
const digits = (value) => (value === undefined || value === null ? "–" : value.toPrecision(value < 0.1 ? 3 : 4));
function bytes(value) {
  const step = value < 1e3 ? 0 : Math.min(4, Math.floor(Math.log10(value) / 3));
  const scaled = value / 1e3 ** step;
  return `${scaled.toFixed(step && scaled < 10 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][step]}`;
}
function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return `${Math.round(seconds)} s`;
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
/** Setting what is there already would make browsers and screen readers work for nothing. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function make(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}
/** The server's states begin their reasons with themselves, which the word above says already. */
const reasonOf = ({ state, reason }) =>
  reason.startsWith(state) ? reason.slice(state.length).replace(/^:? /, "") : reason;
