// <timeline-chart>: probabilities over the seconds of a clip, where the face was seen, and the moment of the cover.
// It is a slider: pointer and arrow keys choose a time, which it reports by the event `scrub`.
import { html, nothing, render, svg } from "../vendor/lit-html/lit-html.js";
import { S, emotionName, fill, percent, seconds } from "./strings.js";
import { emotionClass } from "./ui.js";

/**
 * @typedef {object} Sample One face in one frame.
 * @property {number} time Seconds.
 * @property {Record<string, number>} probabilities
 *
 * @typedef {object} TimelineData
 * @property {Sample[]} samples Of one face, in order of time.
 * @property {number} duration Seconds.
 * @property {number} step Seconds between two analyzed frames.
 * @property {number | null} peak Seconds.
 * @property {{start: number, end: number} | null} cover The part of the clip that the loop shows.
 * @property {number} time The chosen time in seconds.
 */

const HEIGHT = 236;
const MARGIN = { top: 36, right: 12, bottom: 34, left: 40 };
const BOTTOM = HEIGHT - MARGIN.bottom;
const LABEL_SPACE = 40; // A name that stands nearer to the right edge is left of its place.
const NAME_SPACE = 60; // About the width of a name.
const LABEL_FROM = 0.25; // A line is named at its highest point if that is higher.

class TimelineChart extends HTMLElement {
  /** @type {TimelineData | null} */
  #data = null;
  #width = 600;
  #observer = new ResizeObserver(([entry]) => {
    // In units of the letters' usual size: the chart grows with the letters of the browser.
    const scale = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
    this.#width = Math.max(240, entry.contentRect.width / scale);
    this.#render();
  });

  connectedCallback() {
    this.#observer.observe(this);
  }

  disconnectedCallback() {
    this.#observer.disconnect();
  }

  /** @param {TimelineData} data */
  set data(data) {
    this.#data = data;
    this.#render();
  }

  /** @param {number} time */
  #x(time) {
    const width = this.#width - MARGIN.left - MARGIN.right;
    return MARGIN.left + (width * time) / (this.#data?.duration || 1);
  }

  /** @param {number} share */
  #y(share) {
    return BOTTOM - share * (BOTTOM - MARGIN.top);
  }

  /** @param {number} time */
  #scrub(time) {
    const detail = Math.min(this.#data?.duration ?? 0, Math.max(0, time));
    this.dispatchEvent(new CustomEvent("scrub", { detail }));
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const { left, width } = /** @type {Element} */ (event.currentTarget).getBoundingClientRect();
    const x = ((event.clientX - left) / width) * this.#width;
    const share = (x - MARGIN.left) / (this.#width - MARGIN.left - MARGIN.right);
    this.#scrub(share * (this.#data?.duration ?? 0));
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const data = this.#data;
    if (!data) return;
    const steps = { ArrowRight: data.step, ArrowUp: data.step, ArrowLeft: -data.step, ArrowDown: -data.step };
    const jumps = { PageUp: 1, PageDown: -1, Home: -data.time, End: data.duration };
    const by = /** @type {Record<string, number>} */ ({ ...steps, ...jumps })[event.key];
    if (by === undefined) return;
    event.preventDefault();
    this.#scrub(data.time + by);
  }

  #render() {
    const data = this.#data;
    if (!data) return;
    const x = this.#x(data.time);
    const chart = html`<svg
        class="chart" viewBox="0 0 ${this.#width} ${HEIGHT}" role="slider" tabindex="0"
        aria-label=${S.result.slider} aria-valuemin="0" aria-valuemax=${data.duration} aria-valuenow=${data.time}
        aria-valuetext=${describe(data)}
        @pointermove=${(/** @type {PointerEvent} */ event) => this.#point(event)}
        @pointerdown=${(/** @type {PointerEvent} */ event) => this.#point(event)}
        @keydown=${(/** @type {KeyboardEvent} */ event) => this.#press(event)}
      >
        ${this.#axes(data)} ${this.#cover(data)} ${this.#lines(data)}
        <line class="cursor" x1=${x} x2=${x} y1=${MARGIN.top} y2=${BOTTOM + 10}></line>
        ${nearest(data) ? this.#dots(x, nearest(data)) : nothing}
      </svg>
      <p class="readout small" aria-hidden="true">${describe(data)}</p>`;
    render(chart, this);
  }

  /** @param {TimelineData} data */
  #axes(data) {
    const every = [0.5, 1, 2, 5, 10, 20].find((step) => data.duration / step <= this.#width / 60) ?? 60;
    const ticks = Array.from({ length: Math.floor(data.duration / every) + 1 }, (_value, index) => index * every);
    return svg`${[0, 0.5, 1].map(
      (share) => svg`<line class="grid" x1=${MARGIN.left} x2=${this.#width - MARGIN.right}
          y1=${this.#y(share)} y2=${this.#y(share)}></line>
        <text class="axis end" x=${MARGIN.left - 6} y=${this.#y(share) + 4}>${percent(share)}</text>`,
    )}
    ${ticks.map((tick) => svg`<text class="axis middle" x=${this.#x(tick)} y=${HEIGHT - 4}>${tick} s</text>`)}
    ${runs(data).map(
      (run) => svg`<rect class="seen" rx="2" height="4" x=${this.#x(run[0].time)} y=${BOTTOM + 6}
        width=${Math.max(4, this.#x(run[run.length - 1].time) - this.#x(run[0].time))}><title>${S.result.seen}</title></rect>`,
    )}`;
  }

  /** @param {TimelineData} data */
  #cover({ peak, cover }) {
    if (peak === null) return nothing;
    const x = this.#x(peak);
    return svg`${
      cover
        ? svg`<rect class="cover" x=${this.#x(cover.start)} y=${MARGIN.top} height=${BOTTOM - MARGIN.top}
            width=${Math.max(2, this.#x(cover.end) - this.#x(cover.start))}></rect>`
        : nothing
    }
    <line class="peak" x1=${x} x2=${x} y1="16" y2=${BOTTOM}></line>
    <text class="axis ${this.#width - x < LABEL_SPACE ? "end" : "middle"} strong" x=${x} y="11">${S.result.chosen}</text>`;
  }

  /** @param {TimelineData} data */
  #lines(data) {
    // A name stands at the top of its line, away from the mark of the cover and from other names.
    const taken = [this.#x(data.peak ?? -1)];
    return Object.keys(data.samples[0]?.probabilities ?? {}).map((label) => {
      const highest = Math.max(...data.samples.map(({ probabilities }) => probabilities[label]));
      const lines = runs(data).map((run) => svg`<polyline class="line" points=${this.#points(run, label)}></polyline>`);
      if (highest < LABEL_FROM) return svg`<g class=${emotionClass(label)}>${lines}</g>`;
      const space = (/** @type {Sample} */ { time }) => Math.min(...taken.map((x) => Math.abs(this.#x(time) - x)));
      const top = data.samples
        .filter(({ probabilities }) => probabilities[label] >= 0.9 * highest)
        .reduce((best, each) => (space(each) > space(best) ? each : best));
      const x = this.#x(top.time);
      taken.push(x);
      const side = x > this.#width / 2 ? "end" : "";
      const beside = (/** @type {Sample} */ { time }) => {
        const right = this.#x(time) - x;
        return side ? -NAME_SPACE < right && right <= 0 : 0 <= right && right < NAME_SPACE;
      };
      const highestBeside = Math.max(...data.samples.filter(beside).map(({ probabilities }) => probabilities[label]));
      const y = this.#y(highestBeside) - 10;
      return svg`<g class=${emotionClass(label)}>${lines}
        <text class="name ${side}" x=${x} y=${y}>${emotionName(label)}</text>
      </g>`;
    });
  }

  /** @param {Sample[]} run @param {string} label */
  #points(run, label) {
    const point = (/** @type {Sample} */ { time, probabilities }) =>
      `${this.#x(time).toFixed(1)},${this.#y(probabilities[label]).toFixed(1)}`;
    return run.map(point).join(" ");
  }

  /** @param {number} x @param {Sample | undefined} sample */
  #dots(x, sample) {
    return Object.entries(sample?.probabilities ?? {}).map(
      ([label, share]) => svg`<circle class="dot ${emotionClass(label)}" cx=${x} cy=${this.#y(share)} r="3.5"></circle>`,
    );
  }
}

/** Return the sample at the chosen time, if the face was seen then. @param {TimelineData} data */
export function nearest({ samples, time, step }) {
  const distance = (/** @type {Sample} */ sample) => Math.abs(sample.time - time);
  const best = samples.reduce((one, other) => (distance(other) < distance(one) ? other : one), samples[0]);
  return best && distance(best) <= step ? best : undefined;
}

/** @param {TimelineData} data */
function describe(data) {
  const shares = Object.entries(nearest(data)?.probabilities ?? {}).sort((one, other) => other[1] - one[1]);
  const values = shares.slice(0, 3).map(([label, share]) => `${emotionName(label)} ${percent(share)}`);
  return fill(S.result.at, { time: seconds(data.time), values: values.join(", ") || S.result.noFace });
}

/** Split the samples where the face was not seen. @param {TimelineData} data */
function runs({ samples, step }) {
  /** @type {Sample[][]} */
  const found = [];
  for (const sample of samples) {
    const last = found[found.length - 1];
    if (last && sample.time - last[last.length - 1].time < 2.5 * step) last.push(sample);
    else found.push([sample]);
  }
  return found;
}

customElements.define("timeline-chart", TimelineChart);
