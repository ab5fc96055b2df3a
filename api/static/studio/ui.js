// Parts that several screens use.
import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { S, emotionName, fill, fromNow, percent } from "./strings.js";

/** @typedef {import("../vendor/lit-html/lit-html.js").TemplateResult<1 | 2>} Template */

/**
 * What `app.js` gives to a screen.
 * @typedef {object} Shell
 * @property {() => void} update Render again.
 * @property {(text: string) => void} announce Tell screen readers.
 * @property {(problem?: string) => Promise<boolean>} askForCredential Whether there is one now.
 */

/**
 * @typedef {object} Screen
 * @property {() => Template} view
 * @property {() => void} leave Release the camera, connections and memory.
 * @property {() => void} [reload] Load again, with a new key or token.
 */

/** Whether the user wants no motion. */
export const prefersStill = matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Return the class with the color of an emotion, whatever the model calls it. @param {string} label */
export function emotionClass(label) {
  const same = { angry: "anger", joy: "happy", surprise: "shock", surprised: "shock", sadness: "sad", fearful: "fear" };
  const name = label.toLowerCase();
  return `e-${/** @type {Record<string, string>} */ (same)[name] ?? name}`;
}

/**
 * A bar for each label, in the order of the service or the largest first.
 * @param {Record<string, number>} shares From 0 to 1.
 * @param {string} title
 */
export function bars(shares, title) {
  return html`<ul class="bars" aria-label=${title}>
    ${Object.entries(shares).map(([label, share]) => bar(emotionName(label), share, emotionClass(label)))}
  </ul>`;
}

/** @param {string} name @param {number} share From 0 to 1. @param {string} [color] A class. */
export function bar(name, share, color = "") {
  const width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  return html`<li class="bar ${color}">
    <span>${name}</span>
    <svg aria-hidden="true" width="100%" height="8">
      <rect class="track" width="100%" height="8" rx="4"></rect>
      <rect class="fill" width=${width} height="8" rx="4"></rect>
    </svg>
    <span class="number">${percent(share)}</span>
  </li>`;
}

/**
 * A problem, and ways out of it.
 * @param {{message: string, requestId?: string}} problem
 * @param {unknown} [actions]
 */
export function note(problem, actions = nothing) {
  return html`<div class="note" role="alert">
    <p>${problem.message}</p>
    ${problem.requestId
      ? html`<p class="small">${fill(S.problems.reference, { id: problem.requestId })}</p>`
      : nothing}
    ${actions === nothing ? nothing : html`<div class="row" aria-live="off">${actions}</div>`}
  </div>`;
}

/**
 * A problem, and the way out of it: to try again, with a new key if the old one is to blame.
 * @param {Shell} shell
 * @param {import("./api.js").Problem} problem
 * @param {(() => unknown) | null} retry Null if that goes on by itself.
 */
export function failure(shell, problem, retry) {
  if (!retry) return note(problem);
  const enter = async () => (await shell.askForCredential()) && retry();
  return note(
    problem,
    problem.isCredential
      ? html`<button @click=${enter}>${S.key.enter}</button>`
      : retryButton(shell, problem, retry),
  );
}

let countdown = 0;

/**
 * A button to try again, which counts down the time that the service asked to wait.
 * @param {Shell} shell
 * @param {import("./api.js").Problem} problem
 * @param {() => unknown} retry
 */
export function retryButton(shell, { wait }, retry) {
  clearTimeout(countdown);
  if (wait) countdown = setTimeout(shell.update, 1000);
  return html`<button aria-disabled=${wait ? "true" : nothing} @click=${() => wait || retry()}>
    ${wait ? fill(S.moment.retryIn, { when: fromNow(wait) }) : S.moment.retry}
  </button>`;
}

/** A list of facts, each with its name. @param {[string, unknown][]} rows @param {string} [style] A class. */
export function facts(rows, style = "") {
  return html`<dl class=${style}>${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

const ICONS = {
  download: svg`<path d="M12 4v11m0 0-4-4m4 4 4-4M5 20h14" />`,
  picture: svg`<rect x="4" y="5" width="16" height="14" rx="2" /><path d="m4 16 5-4 4 3 3-2 4 3" />`,
  share: svg`<path d="M12 15V4m0 0L8 8m4-4 4 4M5 13v6h14v-6" />`,
  play: svg`<path d="M8 5v14l11-7z" />`,
  pause: svg`<path d="M9 5v14M15 5v14" />`,
  left: svg`<path d="m14 6-6 6 6 6" />`,
  right: svg`<path d="m10 6 6 6-6 6" />`,
  copy: svg`<rect x="9" y="9" width="10" height="11" rx="2" /><path d="M15 9V4H5v12h4" />`,
  check: svg`<path d="m5 12 5 5 9-10" />`,
  close: svg`<path d="m6 6 12 12M18 6 6 18" />`,
  key: svg`<circle cx="8" cy="14" r="4" /><path d="m11 11 8-8m-3 3 3 3m-6 0 2 2" />`,
};

/** @param {keyof ICONS} name */
export const icon = (name) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">${ICONS[name]}</svg>`;
