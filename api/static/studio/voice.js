// Face and voice: the same clip by `POST /api/predict/multimodal`.
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { asProblem, upload } from "./api.js";
import { S, emotionName, fill, percent } from "./strings.js";
import { bars, emotionClass, failure } from "./ui.js";

/**
 * @typedef {object} Answer
 * @property {string[]} labels
 * @property {number[]} probs Percentages.
 * @property {{label: string, prob: number}} top1
 * @property {(keyof typeof S.voice.modalities)[]} modalities
 * @property {Partial<Record<keyof typeof S.voice.modalities, keyof typeof S.voice.reasons>>} missing
 * @property {{name: string, version: string}} model
 * @property {boolean} [commercial]
 */

export class Voice {
  /** @type {Answer | null} */
  answer = null;
  /** @type {import("./api.js").Problem | null} */
  problem = null;
  /** @type {AbortController | null} */
  running = null;

  /** @param {import("./ui.js").Shell} shell @param {Blob} clip */
  constructor(shell, clip) {
    this.shell = shell;
    this.clip = clip;
  }

  stop() {
    this.running?.abort();
  }

  async ask() {
    const running = (this.running = new AbortController());
    this.problem = null;
    this.shell.update();
    try {
      /** @type {Answer} */
      const answer = await upload("api/predict/multimodal", this.clip, {}, { onProgress() {}, signal: running.signal });
      this.answer = answer;
      this.shell.announce(emotionName(answer.top1.label));
    } catch (error) {
      this.problem = running.signal.aborted ? null : asProblem(error);
    }
    this.running = null;
    if (!running.signal.aborted) this.shell.update();
  }

  view() {
    return html`<section class="stack">
      <h2>${S.voice.title}</h2>
      ${this.answer ? this.verdict(this.answer) : this.question()} ${this.problem ? failure(this.shell, this.problem, () => this.ask()) : nothing}
    </section>`;
  }

  question() {
    return html`<p class="small quiet-text">${S.voice.lead}</p>
      <div class="row">
        <button ?disabled=${this.running !== null} @click=${() => this.ask()}>
          ${this.running ? S.voice.asking : S.voice.ask}
        </button>
      </div>`;
  }

  /** @param {Answer} answer */
  verdict({ labels, probs, top1, modalities, missing, model, commercial }) {
    const shares = Object.fromEntries(labels.map((label, index) => [label, probs[index] / 100]));
    const names = modalities.map((name) => S.voice.modalities[name]).join(", ");
    const lacks = /** @type {[keyof typeof S.voice.modalities, keyof typeof S.voice.reasons][]} */ (
      Object.entries(missing)
    );
    return html`<div class="two">
      <div class="stack">
        <p class="emotion small-emotion ${emotionClass(top1.label)}">${emotionName(top1.label)}</p>
        <p class="lead">${fill(S.result.sure, { confidence: percent(top1.prob / 100) })}</p>
        <p class="small">${fill(S.voice.from, { names })}</p>
        ${lacks.map(
          ([name, reason]) => html`<p class="small quiet-text">
            ${fill(S.voice.missing, { name: S.voice.modalities[name], reason: S.voice.reasons[reason] })}
          </p>`,
        )}
        <p class="small quiet-text">
          ${model.name} ${model.version}${commercial === false ? ` · ${S.voice.noncommercial}` : ""}
        </p>
      </div>
      ${bars(shares, S.result.probabilities)}
    </div>`;
  }
}
