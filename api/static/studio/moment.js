// Record a clip, or take a file; send it; show what the service says about it.
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { Problem, credential, upload } from "./api.js";
import { canRecord } from "./camera.js";
import { Recorder } from "./recorder.js";
import { S, emotionName, fill, percent } from "./strings.js";
import { note, retryButton } from "./ui.js";

const FIELDS = { detail: "timeline", explain: "true", thumbnail: '{"size": 720}' };

/** @typedef {import("./ui.js").Screen} Screen */

/** @implements {Screen} */
class Moment {
  /** @type {{message: string, requestId?: string} | null} */
  problem = null;
  /** @type {Blob | null} */
  clip = null;
  /** @type {import("./result.js").Result | null} */
  result = null;
  /** @type {AbortController | null} Of the clip that is being sent. */
  sending = null;
  sent = 0;
  isDragging = false;
  listening = new AbortController();

  /** @param {import("./ui.js").Shell} shell */
  constructor(shell) {
    this.shell = shell;
    this.recorder = new Recorder(
      shell,
      (clip) => this.send(clip),
      (message) => this.fail({ message }),
    );
  }

  /** Show the screen, with what it had when it was left. */
  enter() {
    this.listening = new AbortController();
    const options = { signal: this.listening.signal };
    addEventListener("dragover", (event) => this.drag(event, true), options);
    addEventListener("dragleave", (event) => event.relatedTarget || this.drag(event, false), options);
    addEventListener("drop", (event) => this.drop(event), options);
    addEventListener("paste", (event) => this.paste(event), options);
  }

  leave() {
    this.listening.abort();
    this.isDragging = false;
    this.recorder.turnOff();
    this.result?.leave();
  }

  /** @param {DragEvent} event @param {boolean} isDragging */
  drag(event, isDragging) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    if (isDragging === this.isDragging) return;
    this.isDragging = isDragging;
    this.shell.update();
  }

  /** @param {DragEvent} event */
  drop(event) {
    this.drag(event, false);
    this.take(event.dataTransfer?.files[0]);
  }

  /** @param {ClipboardEvent} event */
  paste(event) {
    // Words from an office program come with a picture of themselves.
    const isText = /** @type {Element} */ (event.target).matches?.("input, textarea");
    if (!isText) this.take(event.clipboardData?.files[0]);
  }

  /** Take a file that was chosen, dropped or pasted. @param {File | undefined} file */
  take(file) {
    if (!file || this.sending) return;
    this.recorder.turnOff();
    // Browsers know no type for some containers; the service decides.
    if (file.type && !/^(video|image\/gif)/.test(file.type)) this.fail(new Problem("not_video"));
    else this.send(file);
  }

  /** @param {{message: string, requestId?: string}} problem */
  fail(problem) {
    this.problem = problem;
    this.shell.update();
  }

  /** Turn the camera on, for a new moment in place of the last one. */
  turnOn() {
    this.problem = null;
    this.result?.dispose();
    this.result = this.clip = null;
    return this.recorder.turnOn();
  }

  /** Send a clip, or the last one again. @param {Blob} clip */
  async send(clip) {
    this.clip = clip;
    this.problem = null;
    if (!credential() && !(await this.shell.askForCredential())) return this.fail(new Problem("no_credential"));
    const sending = (this.sending = new AbortController());
    this.report(0);
    try {
      if (!(await isReadable(clip))) throw new Problem("file_unreadable");
      const options = { onProgress: (/** @type {number} */ share) => this.report(share), signal: sending.signal };
      const [module, answer] = await Promise.all([import("./result.js"), upload("predict", clip, FIELDS, options)]);
      this.sending = null;
      this.show(new module.Result(this.shell, clip, answer));
    } catch (error) {
      this.sending = null;
      this.failSending(error, sending.signal.aborted);
    }
  }

  /** @param {number} share Of the clip that has been sent. */
  report(share) {
    this.sent = share;
    if (share === 1) this.shell.announce(S.moment.analyzing);
    else this.shell.update();
  }

  /** @param {import("./result.js").Result} result */
  show(result) {
    this.result?.dispose();
    this.result = result;
    this.problem = null;
    const { emotion, confidence, certain } = result.answer;
    const values = { emotion: emotionName(emotion), confidence: percent(confidence) };
    this.shell.announce(fill(certain ? S.moment.done : S.moment.doneNotSure, values));
    if (!this.listening.signal.aborted) document.querySelector("h1")?.focus();
  }

  /** @param {unknown} error @param {boolean} isCanceled */
  failSending(error, isCanceled) {
    if (isCanceled) return this.shell.update();
    // What is no problem of the call: a file of the page did not arrive.
    const problem = error instanceof Problem ? error : new Problem("page_outdated");
    this.fail(problem);
    const isShown = !this.listening.signal.aborted;
    if (problem.isCredential && isShown) this.askAndRetry(problem.message);
  }

  /** @param {string} [message] Why. */
  async askAndRetry(message) {
    if ((await this.shell.askForCredential(message)) && this.clip) this.send(this.clip);
  }

  view() {
    if (this.result && !this.sending && !this.problem) {
      return this.result.view(() => this.turnOn(), this.filePicker("quiet"));
    }
    return html`<section class="moment ${this.recorder.phase === "off" ? "" : "filming"}">
      <div class="intro">
        <h1>${S.moment.title}</h1>
        <p class="lead">${S.moment.lead}</p>
        <p class="small quiet-text">${S.moment.privacy}</p>
        ${this.problem ? note(this.problem, html`${this.retry()}${this.filePicker()}`) : nothing}
      </div>
      <div class="stage ${this.isDragging && !this.sending ? "dragging" : ""}">${this.stage()}</div>
    </section>`;
  }

  retry() {
    if (this.problem instanceof Problem) {
      return this.problem.isPassing
        ? retryButton(this.shell, this.problem, () => this.clip && this.send(this.clip))
        : nothing;
    }
    return this.recorder.phase === "off" && canRecord()
      ? html`<button @click=${() => this.turnOn()}>${S.moment.retry}</button>`
      : nothing;
  }

  stage() {
    if (this.sending) return this.progress(this.sending);
    if (this.isDragging) return html`<p class="drop">${S.moment.dropNow}</p>`;
    return this.recorder.phase === "off" ? this.idle() : this.recorder.view();
  }

  idle() {
    return html`<div class="start">
      <button class="primary" @click=${() => this.turnOn()}>${S.moment.camera}</button>
      ${this.filePicker()}
      <label class="check">
        <input
          type="checkbox" .checked=${this.recorder.withSound}
          @change=${() => (this.recorder.withSound = !this.recorder.withSound)}
        />
        ${S.moment.sound}
      </label>
      <p class="small">${S.moment.drop}</p>
    </div>`;
  }

  /** @param {AbortController} sending */
  progress(sending) {
    const isSent = this.sent === 1;
    return html`<div class="start">
      <label class="progress">
        ${isSent ? S.moment.analyzing : fill(S.moment.sending, { share: percent(this.sent) })}
        ${isSent ? html`<progress></progress>` : html`<progress max="1" .value=${this.sent}></progress>`}
      </label>
      <button @click=${() => sending.abort()}>${S.moment.cancel}</button>
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

/** Whether a file has anything and can be opened: a folder, or a file that was changed since, cannot. @param {Blob} file */
const isReadable = (file) => file.slice(0, 1).arrayBuffer().then(({ byteLength }) => byteLength > 0, () => false);

/** @type {Moment | null} */
let moment = null;

/** @param {import("./ui.js").Shell} shell */
export function open(shell) {
  moment ??= new Moment(shell);
  moment.enter();
  return moment;
}
