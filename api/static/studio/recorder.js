// The camera stage: preview, length, countdown, the round record button.
import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { CameraError, canRecord, closeCamera, openCamera, record, showStream } from "./camera.js";
import { S, fill } from "./strings.js";
import { icon } from "./ui.js";

const LENGTHS = [3, 5, 10];
const MIN_SECONDS = 3;
const COUNTDOWN = 3;
const RING = 2 * Math.PI * 46;

export class Recorder {
  /** @type {"off" | "ready" | "countdown" | "recording"} */
  phase = "off";
  /** @type {MediaStream | null} */
  stream = null;
  /** @type {(() => void) | null} */
  stop = null;
  length = 5;
  withSound = false;
  /** @type {object | null} The latest request for the camera. What an earlier one gets is closed at once. */
  opening = null;
  /** The latest countdown. An earlier one, which was canceled, counts no further. */
  counting = {};
  count = 0;
  elapsed = 0;

  /**
   * @param {import("./ui.js").Shell} shell
   * @param {(clip: Blob) => void} onClip
   * @param {(message: string) => void} onProblem
   */
  constructor(shell, onClip, onProblem) {
    this.shell = shell;
    this.onClip = onClip;
    this.onProblem = onProblem;
  }

  /** @param {Recorder["phase"]} phase */
  go(phase) {
    this.phase = phase;
    this.shell.update();
    showStream("preview", this.stream);
  }

  async turnOn() {
    const opening = (this.opening = {});
    try {
      if (!canRecord()) throw new CameraError("unsupported");
      const stream = await openCamera(this.withSound);
      if (opening !== this.opening) return closeCamera(stream);
      this.stream = stream;
      stream.getVideoTracks()[0].onended = () => {
        this.turnOff();
        this.onProblem(S.camera.lost);
      };
      this.go("ready");
      if (this.withSound && !stream.getAudioTracks().length) this.onProblem(S.camera.silent);
    } catch (error) {
      if (opening === this.opening) this.onProblem(S.camera[error instanceof CameraError ? error.reason : "none"]);
    }
  }

  turnOff() {
    closeCamera(this.stream);
    this.stream = this.opening = null;
    this.go("off");
  }

  /** What the round button does in this phase. */
  press() {
    if (this.phase === "ready") this.countDown();
    else if (this.phase === "countdown") this.go("ready");
    else if (this.elapsed >= MIN_SECONDS) this.stop?.();
  }

  async countDown() {
    const counting = (this.counting = {});
    for (this.count = COUNTDOWN; this.count > 0; this.count -= 1) {
      this.go("countdown");
      this.shell.announce(fill(S.moment.countdown, { count: this.count }));
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (this.phase !== "countdown" || counting !== this.counting) return;
    }
    this.record();
  }

  async record() {
    if (!this.stream) return;
    this.elapsed = 0;
    const { clip, stop } = record(this.stream, this.length, (elapsed) => {
      this.elapsed = elapsed;
      this.shell.update();
    });
    this.stop = stop;
    this.go("recording");
    this.shell.announce(fill(S.moment.recording, { left: this.length }));
    const recorded = await clip;
    // Whoever left the screen meanwhile has turned the camera off.
    if (this.phase !== "recording") return;
    this.turnOff();
    this.onClip(recorded);
  }

  view() {
    const isBusy = this.phase !== "ready";
    return html`<video
        id="preview" class="preview" aria-label=${S.moment.preview} .muted=${true} autoplay playsinline
      ></video>
      ${this.phase === "countdown" ? html`<p class="count" aria-hidden="true">${this.count}</p>` : nothing}
      <div class="controls">
        ${isBusy ? html`<span></span>` : this.lengths()} ${this.button()}
        ${isBusy
          ? html`<span></span>`
          : html`<button class="over round" aria-label=${S.moment.off} title=${S.moment.off} @click=${() => this.turnOff()}>
              ${icon("close")}
            </button>`}
      </div>`;
  }

  lengths() {
    return html`<fieldset class="choice">
      <legend>${S.moment.length}</legend>
      ${LENGTHS.map(
        (value) => html`<label>
          <input type="radio" name="length" .checked=${value === this.length} @change=${() => (this.length = value)} />
          <span>${fill(S.units.seconds, { value })}</span>
        </label>`,
      )}
    </fieldset>`;
  }

  button() {
    const isRecording = this.phase === "recording";
    const label = { off: "", ready: S.moment.start, countdown: S.moment.cancelCountdown, recording: S.moment.stop }[
      this.phase
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
      ${isRecording
        ? html`<span class="left" aria-hidden="true">${Math.ceil(this.length - this.elapsed)}</span>`
        : nothing}
    </button>`;
  }
}
