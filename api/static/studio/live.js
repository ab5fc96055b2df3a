// Live: what faces show while the camera runs, over Socket.IO (docs/live.md).
import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { io } from "../vendor/socket.io-client/socket.io.esm.min.js";
import { Problem, credential, socketCredential } from "./api.js";
import { CameraError, closeCamera, openCamera, showStream } from "./camera.js";
import { S, emotionName, fill, percent } from "./strings.js";
import { bars, emotionClass, facts, note } from "./ui.js";

/**
 * @typedef {object} Face
 * @property {number} id
 * @property {[number, number, number, number]} box
 * @property {string} emotion
 * @property {number} confidence
 * @property {Record<string, number>} probabilities
 *
 * @typedef {object} Detection
 * @property {Face[]} faces
 * @property {number} width
 * @property {number} height
 * @property {number} time When the frame was taken, by this page's clock.
 * @property {number} dropped
 *
 * @typedef {{reason: string | null, frame_rate: number, width: number, height: number}} Suggestion
 */

const FRAME_RATE = 15;
const WIDTH = 640;
const QUALITY = 0.8;
const RATE_MS = 2000;

/** @typedef {import("./ui.js").Screen} Screen */

/** @implements {Screen} */
export class Live {
  /** @type {MediaStream | null} */
  stream = null;
  /** @type {import("../vendor/socket.io-client/socket.io.esm.min.js").Socket | null} */
  socket = null;
  /** @type {Detection | null} */
  detection = null;
  /** @type {Suggestion | null} */
  suggestion = null;
  /** @type {{message: string} | null} */
  problem = null;
  /** @type {number[]} */
  times = [];
  latency = 0;
  sequence = 0;
  /** @type {object | null} The latest start. What an earlier one gets is closed at once. */
  starting = null;
  frameRate = FRAME_RATE;
  width = WIDTH;
  timer = 0;
  canvas = document.createElement("canvas");

  /** @param {import("./ui.js").Shell} shell */
  constructor(shell) {
    this.shell = shell;
  }

  /** Connect again, with the new key or token. */
  reload() {
    if (!this.stream) return;
    this.socket?.disconnect();
    this.connect();
  }

  leave() {
    clearTimeout(this.timer);
    this.socket?.disconnect();
    closeCamera(this.stream);
    this.stream = this.socket = this.detection = this.suggestion = this.starting = null;
  }

  stop() {
    this.leave();
    this.shell.update();
  }

  async start() {
    const starting = (this.starting = {});
    this.problem = null;
    if (!credential() && !(await this.shell.askForCredential())) return;
    try {
      const stream = await openCamera(false);
      if (starting !== this.starting) return closeCamera(stream);
      this.stream = stream;
      stream.getVideoTracks()[0].onended = () => this.fail(S.camera.lost);
    } catch (error) {
      if (starting === this.starting) this.fail(S.camera[error instanceof CameraError ? error.reason : "none"]);
      return;
    }
    this.frameRate = FRAME_RATE;
    this.width = WIDTH;
    this.connect();
    this.shell.update();
    showStream("live", this.stream);
  }

  /** @param {string} message */
  fail(message) {
    this.leave();
    this.problem = { message };
    this.shell.update();
  }

  connect() {
    const path = new URL("socket.io/", document.baseURI).pathname;
    const options = { transports: ["websocket"], auth: socketCredential(), path };
    const socket = (this.socket = io(`${location.origin}/emotion-detection`, options));
    socket.on("disconnect", (reason) => reason === "io client disconnect" || this.lose());
    socket.on("connect", () => {
      this.problem = null;
      socket.emit("initialize", { faces: "all" });
      socket.emit("control", { action: "start" });
      clearTimeout(this.timer);
      this.sendFrame();
    });
    // A refused client is told why; any other failure is tried again by the client.
    socket.on("connect_error", ({ data }) => (data ? this.refuse(new Problem(data.code, data.message)) : this.lose()));
    socket.on("detection_result", (detection) => this.show(detection));
    socket.on("performance_suggestion", (suggestion) => this.heed(suggestion));
    socket.on("error_message", ({ code, message }) => {
      this.problem = new Problem(code, message);
      this.shell.update();
    });
  }

  /** Tell that the client of Socket.IO connects again. */
  lose() {
    this.problem = new Problem("connection_lost");
    this.detection = null;
    this.shell.update();
  }

  /** @param {Problem} problem */
  async refuse(problem) {
    this.fail(problem.message);
    if (problem.isCredential && (await this.shell.askForCredential(problem.message))) this.start();
  }

  /** @param {Suggestion} suggestion */
  heed(suggestion) {
    this.suggestion = suggestion.reason ? suggestion : null;
    this.frameRate = suggestion.frame_rate;
    this.width = suggestion.width;
    this.shell.update();
  }

  sendFrame() {
    this.timer = setTimeout(() => this.sendFrame(), 1000 / this.frameRate);
    const video = /** @type {HTMLVideoElement | null} */ (document.getElementById("live"));
    if (!video?.videoWidth || !this.socket?.connected || document.hidden) return;
    const scale = Math.min(1, this.width / video.videoWidth);
    this.canvas.width = Math.round(video.videoWidth * scale);
    this.canvas.height = Math.round(video.videoHeight * scale);
    this.canvas.getContext("2d")?.drawImage(video, 0, 0, this.canvas.width, this.canvas.height);
    const time = performance.now();
    this.canvas.toBlob(
      async (jpeg) => {
        const frame = await jpeg?.arrayBuffer();
        if (frame) this.socket?.emit("video_frame", { frame, sequence: this.sequence++, time });
      },
      "image/jpeg",
      QUALITY,
    );
  }

  /** @param {Detection} detection */
  show(detection) {
    const now = performance.now();
    const before = this.detection?.faces[0]?.emotion;
    this.times = [...this.times.filter((time) => now - time < RATE_MS), now];
    this.latency = now - detection.time;
    this.detection = detection;
    this.problem = null;
    const [face] = detection.faces;
    if (face && face.emotion !== before) this.shell.announce(emotionName(face.emotion));
    this.shell.update();
  }

  view() {
    return html`<section class="two wide-left">
      <div class="stack">
        <h1 class=${this.stream ? "visually-hidden" : ""}>${S.live.title}</h1>
        ${this.stream ? nothing : html`<p class="lead">${S.live.lead}</p>`}
        <div class="stage">${this.stream ? this.picture() : this.idle()}</div>
        ${this.problem ? note(this.problem) : nothing}
        ${this.suggestion ? html`<p class="tip" role="status">${this.slower(this.suggestion)}</p>` : nothing}
      </div>
      <div class="stack">${this.stream ? this.verdict() : nothing}</div>
    </section>`;
  }

  idle() {
    return html`<div class="start">
      <button class="primary" @click=${() => this.start()}>${S.live.start}</button>
      <p class="small">${S.live.privacy}</p>
    </div>`;
  }

  /** @param {Suggestion} suggestion */
  slower({ frame_rate, width, height }) {
    return fill(S.live.slower, { rate: Math.round(frame_rate), width, height });
  }

  picture() {
    const { width = 16, height = 9, faces = [] } = this.detection ?? {};
    const stage = document.getElementById("live");
    const shape = stage ? stage.clientWidth / stage.clientHeight : width / height;
    // What the stage shows of the picture, which covers it.
    const [left, top] = [Math.max(0, width - height * shape) / 2, Math.max(0, height - width / shape) / 2];
    return html`<video id="live" class="preview" aria-label=${S.moment.preview} .muted=${true} autoplay playsinline></video>
      <svg class="boxes" viewBox="0 0 ${width} ${height}" preserveAspectRatio="xMidYMid slice" aria-hidden="true">
        ${faces.map((face) => box(face, width, left, top))}
      </svg>
      <button class="over corner" @click=${() => this.stop()}>${S.live.stop}</button>`;
  }

  verdict() {
    const [face] = this.detection?.faces ?? [];
    return html`${face
        ? html`<div class="verdict">
            <h2 class="emotion ${emotionClass(face.emotion)}">${emotionName(face.emotion)}</h2>
            <p class="lead">${fill(S.live.person, { id: face.id + 1, confidence: percent(face.confidence) })}</p>
            ${bars(face.probabilities, S.result.probabilities)}
          </div>`
        : html`<p class="lead">${this.detection ? S.live.nobody : S.live.connecting}</p>`}
      ${facts(
        [
          [S.live.rate, (this.times.length / (RATE_MS / 1000)).toFixed(1)],
          [S.live.latency, fill(S.live.ms, { value: Math.round(this.latency) })],
          [S.live.dropped, this.detection?.dropped ?? 0],
        ],
        "figures",
      )}`;
  }
}

/**
 * Mark a face in the mirrored picture.
 * @param {Face} face
 * @param {number} width Of the frame in pixels.
 * @param {number} hiddenLeft Pixels of the frame that are out of sight on the left, and as many on the right.
 * @param {number} hiddenTop Pixels that are out of sight above.
 */
function box({ id, box: [left, top, side, height], emotion }, width, hiddenLeft, hiddenTop) {
  const x = width - left - side;
  const size = Math.max(14, width / 32);
  const label = `${id + 1} · ${emotionName(emotion)}`;
  // The label stays in sight, also at an edge. A letter is about .65 of its size wide.
  const labelX = Math.max(hiddenLeft + size / 2, Math.min(x, width - hiddenLeft - 0.65 * size * label.length));
  const labelY = Math.max(top - size / 2, hiddenTop + 1.25 * size);
  return svg`<g class=${emotionClass(emotion)}>
    <rect class="box" x=${x} y=${top} width=${side} height=${height} rx=${size / 2}></rect>
    <text class="tag" x=${labelX} y=${labelY} font-size=${size}>${label}</text>
  </g>`;
}

/** @param {import("./ui.js").Shell} shell */
export const open = (shell) => new Live(shell);
