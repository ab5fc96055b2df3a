// Record a clip, or take a file; send it; show what the service says about it.
import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { Problem, credential, upload } from "./api.js";
import { CameraError, canRecord, closeCamera, openCamera, record, showStream } from "./camera.js";
import { S, emotionName, fill, percent } from "./strings.js";
import { choice, icon, note } from "./ui.js";

/** @typedef {"idle" | "camera" | "countdown" | "recording" | "sending" | "result"} Phase */

const LENGTHS = [3, 5, 10];
const MIN_SECONDS = 3;
const COUNTDOWN = 3;
const RING = 2 * Math.PI * 46;
const FIELDS = { detail: "timeline", explain: "true", thumbnail: '{"size": 720}' };

/** @typedef {import("./ui.js").Screen} Screen */

/** @implements {Screen} */
export class Moment {
  /** @type {Phase} */
  phase = "idle";
  /** @type {MediaStream | null} */
  stream = null;
  /** @type {{message: string, requestId?: string} | null} */
  problem = null;
  /** @type {Blob | null} */
  clip = null;
  /** @type {import("./result.js").Result | null} */
  result = null;
  /** @type {(() => void) | null} */
  stopRecording = null;
  length = 5;
  withSound = false;
  count = 0;
  elapsed = 0;
  sent = 0;
  isDragging = false;
  canceling = new AbortController();
  listening = new AbortController();

  /** @param {import("./ui.js").Shell} shell */
  constructor(shell) {
    this.shell = shell;
    const options = { signal: this.listening.signal };
    addEventListener("dragover", (event) => this.drag(event, true), options);
    addEventListener("dragleave", (event) => event.relatedTarget || this.drag(event, false), options);
    addEventListener("drop", (event) => this.drop(event), options);
    addEventListener("paste", (event) => this.take(event.clipboardData?.files[0]), options);
  }

  leave() {
    this.listening.abort();
    this.canceling.abort();
    closeCamera(this.stream);
    this.result?.dispose();
  }

  /** @param {Phase} phase */
  go(phase) {
    this.phase = phase;
    this.shell.update();
    showStream("preview", this.stream);
  }

  /** @param {DragEvent} event @param {boolean} isDragging */
  drag(event, isDragging) {
    event.preventDefault();
    if (isDragging !== this.isDragging) {
      this.isDragging = isDragging;
      this.shell.update();
    }
  }

  /** @param {DragEvent} event */
  drop(event) {
    this.drag(event, false);
    this.take(event.dataTransfer?.files[0]);
  }

  /** Take a file that was chosen, dropped or pasted. @param {File | undefined} file */
  take(file) {
    if (!file || this.phase === "sending") return;
    closeCamera(this.stream);
    this.stream = null;
    // Browsers know no type for some containers; the service decides.
    if (file.type && !/^(video|image\/gif)/.test(file.type)) this.fail({ message: S.moment.notVideo });
    else this.send(file);
  }

  /** @param {{message: string, requestId?: string}} problem */
  fail(problem) {
    this.problem = problem;
    this.go(this.stream ? "camera" : "idle");
  }

  async turnOn() {
    this.problem = null;
    try {
      if (!canRecord()) throw new CameraError("unsupported");
      this.stream = await openCamera(this.withSound);
      this.stream.getVideoTracks()[0].onended = () => {
        this.turnOff();
        this.fail({ message: S.camera.lost });
      };
      this.go("camera");
    } catch (error) {
      this.fail({ message: S.camera[error instanceof CameraError ? error.reason : "none"] });
    }
  }

  turnOff() {
    closeCamera(this.stream);
    this.stream = null;
    this.go("idle");
  }

  /** What the round button does in this phase. */
  press() {
    if (this.phase === "camera") this.countDown();
    else if (this.phase === "countdown") this.go("camera");
    else if (this.elapsed >= MIN_SECONDS) this.stopRecording?.();
  }

  async countDown() {
    this.problem = null;
    for (this.count = COUNTDOWN; this.count > 0; this.count -= 1) {
      this.go("countdown");
      this.shell.announce(fill(S.moment.countdown, { count: this.count }));
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (this.phase !== "countdown") return;
    }
    this.startRecording();
  }

  async startRecording() {
    if (!this.stream) return;
    this.elapsed = 0;
    const { clip, stop } = record(this.stream, this.length, (elapsed) => {
      this.elapsed = elapsed;
      this.shell.update();
    });
    this.stopRecording = stop;
    this.go("recording");
    this.shell.announce(fill(S.moment.recording, { left: this.length }));
    const recorded = await clip;
    this.turnOff();
    if (!this.listening.signal.aborted) this.send(recorded);
  }

  /** Send a clip, or the last one again. @param {Blob} clip */
  async send(clip) {
    this.clip = clip;
    this.problem = null;
    if (!credential() && !(await this.shell.askForCredential())) return this.fail(new Problem("no_credential"));
    this.canceling = new AbortController();
    this.sent = 0;
    this.go("sending");
    const onProgress = (/** @type {number} */ share) => {
      this.sent = share;
      if (share === 1) this.shell.announce(S.moment.analyzing);
      this.shell.update();
    };
    try {
      const options = { onProgress, signal: this.canceling.signal };
      const [module, answer] = await Promise.all([import("./result.js"), upload("predict", clip, FIELDS, options)]);
      this.result?.dispose();
      this.result = new module.Result(this.shell, clip, answer);
      const { emotion, confidence } = this.result.answer;
      this.shell.announce(
        fill(S.moment.done, { emotion: emotionName(emotion), confidence: percent(confidence) }),
      );
      this.go("result");
    } catch (error) {
      this.failSending(error);
    }
  }

  /** @param {unknown} error */
  failSending(error) {
    if (this.canceling.signal.aborted) return this.go("idle");
    if (!(error instanceof Problem)) throw error;
    this.fail(error);
    if (error.isCredential) {
      this.shell.askForCredential(error.message).then((isGiven) => {
        if (isGiven && this.clip) this.send(this.clip);
      });
    }
  }

  restart() {
    this.result?.dispose();
    this.result = this.clip = null;
    this.go("idle");
    this.turnOn();
  }

  view() {
    if (this.phase === "result" && this.result) return this.result.view(() => this.restart(), this.filePicker("quiet"));
    return html`<section class="moment">
      <div class="intro">
        <h1>${S.moment.title}</h1>
        <p class="lead">${S.moment.lead}</p>
        <p class="small quiet-text">${S.moment.privacy}</p>
        ${this.problem ? note(this.problem, html`${this.retry()}${this.filePicker()}`) : nothing}
      </div>
      <div class="stage ${this.isDragging ? "dragging" : ""}">${this.stage()}</div>
    </section>`;
  }

  retry() {
    if (this.clip) return html`<button @click=${() => this.clip && this.send(this.clip)}>${S.moment.retry}</button>`;
    return this.stream ? nothing : html`<button @click=${() => this.turnOn()}>${S.moment.retry}</button>`;
  }

  stage() {
    if (this.isDragging) return html`<p class="drop">${S.moment.dropNow}</p>`;
    if (this.phase === "idle") return this.idle();
    if (this.phase === "sending") return this.sending();
    const isBusy = this.phase !== "camera";
    return html`<video
        id="preview" class="preview" aria-label=${S.moment.preview} .muted=${true} autoplay playsinline
      ></video>
      ${this.phase === "countdown" ? html`<p class="count" aria-hidden="true">${this.count}</p>` : nothing}
      <div class="controls">
        ${isBusy ? html`<span></span>` : this.lengths()} ${this.recordButton()}
        ${isBusy
          ? html`<span></span>`
          : html`<button class="over round" aria-label=${S.moment.off} title=${S.moment.off} @click=${() => this.turnOff()}>
              ${icon("close")}
            </button>`}
      </div>`;
  }

  idle() {
    return html`<div class="start">
      <button class="primary" @click=${() => this.turnOn()}>${S.moment.camera}</button>
      ${this.filePicker()}
      <label class="check">
        <input type="checkbox" .checked=${this.withSound} @change=${() => (this.withSound = !this.withSound)} />
        ${S.moment.sound}
      </label>
      <p class="small">${S.moment.drop}</p>
    </div>`;
  }

  lengths() {
    const options = LENGTHS.map((value) => ({ value, text: `${value} s` }));
    return choice("length", S.moment.length, options, this.length, (length) => {
      this.length = length;
      this.shell.update();
    });
  }

  recordButton() {
    const isRecording = this.phase === "recording";
    const left = Math.ceil(this.length - this.elapsed);
    const label = { camera: S.moment.start, countdown: S.moment.cancelCountdown, recording: S.moment.stop }[
      /** @type {"camera" | "countdown" | "recording"} */ (this.phase)
    ];
    return html`<button
      class="record ${this.phase}" aria-label=${label} title=${label} @click=${() => this.press()}
      aria-disabled=${isRecording && this.elapsed < MIN_SECONDS}
    >
      <svg viewBox="0 0 100 100" aria-hidden="true">
        <circle class="ring" cx="50" cy="50" r="46"></circle>
        ${isRecording
          ? svg`<circle class="done" cx="50" cy="50" r="46" transform="rotate(-90 50 50)"
              stroke-dasharray="${(RING * this.elapsed) / this.length} ${RING}"></circle>`
          : nothing}
        <rect class="dot" x="14" y="14" width="72" height="72" rx="36"></rect>
      </svg>
      ${isRecording ? html`<span class="left" aria-hidden="true">${left}</span>` : nothing}
    </button>`;
  }

  sending() {
    const isSent = this.sent === 1;
    return html`<div class="start">
      <label class="progress">
        ${isSent ? S.moment.analyzing : fill(S.moment.sending, { share: percent(this.sent) })}
        ${isSent
          ? html`<progress></progress>`
          : html`<progress max="1" .value=${this.sent}></progress>`}
      </label>
      <button @click=${() => this.canceling.abort()}>${S.moment.cancel}</button>
    </div>`;
  }

  filePicker(style = "") {
    return html`<label class="button ${style}">
      ${S.moment.file}
      <input
        class="visually-hidden" type="file" accept="video/*,image/gif"
        @change=${(/** @type {{target: HTMLInputElement}} */ event) => {
          const [file] = event.target.files ?? [];
          event.target.value = "";
          this.take(file);
        }}
      />
    </label>`;
  }
}

/** @param {import("./ui.js").Shell} shell */
export const open = (shell) => new Moment(shell);
