// What the service says about a clip: emotion, cover, timeline, faces.
import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { toBlob } from "./api.js";
import { seek } from "./camera.js";
import { Companion } from "./companion.js";
import { Cover } from "./cover.js";
import { S, emotionName, fill, percent } from "./strings.js";
import { nearest } from "./timeline.js";
import { bar, bars, emotionClass, facts } from "./ui.js";
import { Voice } from "./voice.js";

/**
 * @typedef {import("./timeline.js").Sample & {weight: number, face: {box: [number, number, number, number], track: number}}} Point
 *
 * @typedef {object} Answer The answer of `POST /predict` with all its options.
 * @property {string} emotion
 * @property {number} confidence
 * @property {Record<string, number>} probabilities
 * @property {boolean} certain
 * @property {{face_coverage: number, size: number, sharpness: number, light: number, yaw: number,
 *   reason: keyof typeof S.tips | null, tip: string | null}} quality
 * @property {number} frames_analysed
 * @property {number} duration
 * @property {number} width
 * @property {number} height
 * @property {number} peak
 * @property {number} track
 * @property {{name: string, version: string}} model
 * @property {Point[]} timeline
 * @property {{movements: {name: string, strength: number, weight: number}[]}} explanation
 * @property {string} thumbnail
 * @property {string} poster
 * @property {{width: number, height: number, duration: number, start: number}} loop
 */

const MAX_FACES = 6;

export class Result {
  isSeeking = false;
  canPlayClip = true;

  /**
   * @param {import("./ui.js").Shell} shell
   * @param {Blob} clip
   * @param {Answer} answer
   */
  constructor(shell, clip, answer) {
    this.shell = shell;
    this.answer = answer;
    this.voice = new Voice(shell, clip);
    this.companion = new Companion(shell, answer);
    this.clipUrl = URL.createObjectURL(clip);
    this.cover = new Cover(shell, {
      loop: toBlob(answer.thumbnail, "video/mp4"),
      poster: toBlob(answer.poster, "image/jpeg"),
      width: answer.loop.width,
      height: answer.loop.height,
      name: `moodreel-${answer.emotion.toLowerCase()}`,
    });
    this.time = answer.peak;
    this.track = answer.track;
    /** @type {Map<number, Point[]>} */
    this.tracks = new Map();
    for (const point of answer.timeline) {
      this.tracks.set(point.face.track, [...(this.tracks.get(point.face.track) ?? []), point]);
    }
    /** @type {Map<number, string>} */
    this.portraits = new Map();
    if (this.tracks.size > 1) this.cutPortraits();
  }

  leave() {
    this.voice.stop();
    this.companion.stop();
    this.isSeeking = false;
  }

  dispose() {
    this.leave();
    this.cover.dispose();
    for (const url of [this.clipUrl, ...this.portraits.values()]) URL.revokeObjectURL(url);
  }

  get isMain() {
    return this.track === this.answer.track;
  }

  /** The probabilities of the chosen face; those of another than the main one are its average. */
  get probabilities() {
    if (this.isMain) return this.answer.probabilities;
    const points = this.tracks.get(this.track) ?? [];
    const total = points.reduce((sum, { weight }) => sum + weight, 0) || 1;
    /** @type {Record<string, number>} */
    const mean = {};
    for (const { weight, probabilities } of points) {
      for (const [label, share] of Object.entries(probabilities)) {
        mean[label] = (mean[label] ?? 0) + (share * weight) / total;
      }
    }
    return mean;
  }

  /** @returns {import("./timeline.js").TimelineData} */
  get timeline() {
    const { duration, frames_analysed, peak, loop } = this.answer;
    return {
      samples: this.tracks.get(this.track) ?? [],
      duration,
      step: duration / Math.max(1, frames_analysed),
      peak: this.isMain ? peak : null,
      cover: { start: loop.start, end: loop.start + loop.duration / 2 },
      time: this.time,
    };
  }

  /** Cut a picture of each face out of the clip. Browsers that cannot play the clip show numbers. */
  async cutPortraits() {
    const video = document.createElement("video");
    video.muted = true;
    video.src = this.clipUrl;
    await new Promise((resolve) => (video.onloadedmetadata = video.onerror = resolve));
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 96;
    for (const [track, points] of [...this.tracks].slice(0, MAX_FACES)) {
      const best = points.reduce((one, other) => (other.weight > one.weight ? other : one));
      if (!(await seek(video, best.time))) return;
      const [x, y, width, height] = best.face.box;
      const side = 1.4 * Math.max(width, height);
      const scale = video.videoWidth / this.answer.width;
      const corner = [x + width / 2 - side / 2, y + height / 2 - side / 2].map((value) => value * scale);
      canvas.getContext("2d")?.drawImage(video, corner[0], corner[1], side * scale, side * scale, 0, 0, 96, 96);
      const blob = await new Promise((/** @type {BlobCallback} */ resolve) => canvas.toBlob(resolve, "image/jpeg"));
      if (blob) this.portraits.set(track, URL.createObjectURL(blob));
    }
    this.shell.update();
  }

  /** Show a moment of the clip. @param {number} time Seconds. */
  scrub(time) {
    this.time = time;
    this.shell.update();
    this.showFrame();
  }

  /** Move the clip to the chosen time. While it moves, only the latest choice counts. */
  async showFrame() {
    const video = /** @type {HTMLVideoElement | null} */ (document.getElementById("clip"));
    if (!video || video.readyState === 0 || this.isSeeking) return;
    this.isSeeking = true;
    let shown;
    do {
      shown = this.time;
      if (!(await seek(video, shown))) break;
    } while (shown !== this.time);
    this.isSeeking = false;
  }

  /** @param {() => void} restart @param {unknown} filePicker */
  view(restart, filePicker) {
    return html`<section class="result">
      <div class="top">
        ${this.cover.view()}
        <div class="verdict">${this.verdict()}</div>
      </div>
      ${this.tracks.size > 1 ? this.faces() : nothing} ${this.companion.view()}
      <section class="over-time">
        <h2>${S.result.timeline}</h2>
        <div class="scrubber ${this.canPlayClip ? "" : "alone"}">
          ${this.clipPlayer()}
          <timeline-chart .data=${this.timeline}
            @scrub=${(/** @type {CustomEvent<number>} */ event) => this.scrub(event.detail)}></timeline-chart>
        </div>
        <p class="small quiet-text">${S.result.timelineHelp}</p>
      </section>
      ${this.voice.view()} ${details(this.answer)}
      <div class="row">
        <button class="primary" @click=${restart}>${S.moment.again}</button>
        ${filePicker}
      </div>
    </section>`;
  }

  verdict() {
    const { certain, quality, explanation } = this.answer;
    const shares = this.probabilities;
    const [emotion, share] = Object.entries(shares).reduce((best, each) => (each[1] > best[1] ? each : best));
    const values = { emotion: emotionName(emotion), confidence: percent(share) };
    const isSure = !this.isMain || certain;
    const says = !this.isMain ? S.result.average : certain ? S.result.sure : S.result.closest;
    return html`<h1 class="emotion ${isSure ? emotionClass(emotion) : "unsure"}" tabindex="-1">
        ${isSure ? emotionName(emotion) : S.result.notSure}
      </h1>
      <p class="lead">${fill(says, values)}</p>
      ${this.isMain && quality.reason ? html`<p class="tip">${S.tips[quality.reason] ?? quality.tip}</p>` : nothing}
      ${bars(shares, S.result.probabilities)}
      ${this.isMain ? movements(explanation.movements) : nothing}`;
  }

  faces() {
    return html`<fieldset class="faces">
      <legend>${S.result.faces}</legend>
      ${[...this.tracks.keys()].slice(0, MAX_FACES).map((track, index) => {
        const number = fill(S.result.face, { number: index + 1 });
        return html`<label>
          <input type="radio" name="face" .checked=${track === this.track} @change=${() => this.choose(track)} />
          ${this.portraits.has(track) ? html`<img src=${this.portraits.get(track)} alt="" width="64" height="64" />` : nothing}
          <span>${track === this.answer.track ? S.result.mainFace : number}</span>
        </label>`;
      })}
    </fieldset>`;
  }

  /** @param {number} track */
  choose(track) {
    this.track = track;
    this.shell.update();
  }

  /** Show the chart alone: the service reads more kinds of clips than browsers play. */
  hideClip() {
    this.canPlayClip = false;
    this.shell.update();
  }

  clipPlayer() {
    if (!this.canPlayClip) return nothing;
    const { width, height } = this.answer;
    const box = /** @type {Point | undefined} */ (nearest(this.timeline))?.face.box;
    return html`<div class="player clip">
      <video
        id="clip" src=${this.clipUrl} width=${width} height=${height} .muted=${true} playsinline preload="auto"
        aria-label=${S.result.clip} @loadedmetadata=${() => this.showFrame()}
        @error=${() => this.hideClip()}
      ></video>
      <svg viewBox="0 0 ${width} ${height}" aria-hidden="true">
        ${box
          ? svg`<rect class="box" x=${box[0]} y=${box[1]} width=${box[2]} height=${box[3]} rx="12"></rect>`
          : nothing}
      </svg>
    </div>`;
  }
}

/** @param {Answer["explanation"]["movements"]} found */
function movements(found) {
  return html`<h2>${S.result.movements}</h2>
    ${found.length
      ? html`<ul class="bars">${found.map(({ name, weight }) => bar(name, weight))}</ul>`
      : html`<p class="small">${S.result.noMovements}</p>`}`;
}

/** @param {Answer} answer */
function details({ model, quality, frames_analysed }) {
  const texts = S.result.facts;
  return html`<details>
    <summary>${S.result.details}</summary>
    ${facts([
      [texts.model, `${model.name} ${model.version}`],
      [texts.frames, frames_analysed],
      [texts.coverage, percent(quality.face_coverage)],
      [texts.size, fill(texts.pixels, { value: quality.size })],
      [texts.light, percent(quality.light)],
      [texts.sharpness, Math.round(quality.sharpness)],
      [texts.yaw, fill(texts.degrees, { value: Math.round(quality.yaw) })],
    ])}
  </details>`;
}
