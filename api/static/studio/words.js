// Words: a text is classified while it is typed, over the WebSocket /api/ws.
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { Problem, credential, socketCredential, socketUrl } from "./api.js";
import { S, emotionName, fill, percent } from "./strings.js";
import { bars, emotionClass, failure } from "./ui.js";

const MAX_CHARACTERS = 2000;
const PAUSE_MS = 600;
const SPACING_MS = 1000; // The service takes 60 messages a minute.
const RETRY_MS = { first: 2000, longest: 30_000 };
const UNAUTHENTICATED = 4001;
const NO_FREE_CONNECTION = 1013;

/** The text when this screen was left last. */
let kept = "";

/**
 * @typedef {object} Classification
 * @property {string} label
 * @property {number} score
 * @property {Record<string, number>} scores
 * @property {boolean} language_supported
 */

/** @typedef {import("./ui.js").Screen} Screen */

/** @implements {Screen} */
class Words {
  /** @type {WebSocket | null} */
  socket = null;
  /** @type {Classification | null} */
  answer = null;
  /** @type {Problem | null} */
  problem = null;
  people = 0;
  isClosed = false;
  wait = RETRY_MS.first;
  text = kept;
  isLeft = false;
  pause = 0;
  sentAt = -SPACING_MS;

  /** @param {import("./ui.js").Shell} shell */
  constructor(shell) {
    this.shell = shell;
    this.connect();
  }

  leave() {
    this.isLeft = true;
    kept = this.text;
    clearTimeout(this.pause);
    this.socket?.close();
  }

  reload() {
    if (this.isClosed) this.connect();
    else this.socket?.close(); // It connects again.
  }

  async connect() {
    this.isClosed = false;
    if (!credential() && !(await this.shell.askForCredential())) return this.close(new Problem("no_credential"));
    if (this.isLeft) return;
    // The first message has the credential: the browser may send a cookie that has expired.
    const socket = (this.socket = new WebSocket(socketUrl("api/ws?auth=message")));
    socket.onopen = () => socket.send(JSON.stringify(socketCredential()));
    socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    socket.onclose = (event) => this.lose(event);
  }

  /** @param {{type: string, active_connections: number, code: string, message: string} & Classification} message */
  receive(message) {
    if (message.type === "connection_update") {
      const isFirst = !this.people;
      this.people = message.active_connections;
      if (isFirst) {
        this.problem = null;
        this.wait = RETRY_MS.first;
        this.send();
      }
    } else if (message.type === "emotion_classification") {
      if (!this.text.trim()) return; // It was deleted meanwhile.
      this.answer = message;
      this.problem = null;
      this.shell.announce(
        fill(S.words.announce, { emotion: emotionName(message.label), score: percent(message.score) }),
      );
    } else {
      this.problem = new Problem(message.code, message.message);
      if (!this.problem.isPassing) this.answer = null; // It was another text's.
    }
    this.shell.update();
  }

  /** @param {CloseEvent} event */
  async lose(event) {
    if (this.isLeft) return;
    this.people = 0;
    if (event.code === UNAUTHENTICATED) {
      const problem = new Problem("signed_out");
      this.close(problem);
      return (await this.shell.askForCredential(problem.message)) && this.connect();
    }
    this.problem = new Problem(event.code === NO_FREE_CONNECTION ? "overloaded" : "connection_lost");
    this.shell.update();
    setTimeout(() => this.isLeft || this.connect(), this.wait);
    this.wait = Math.min(2 * this.wait, RETRY_MS.longest);
  }

  /** Stop connecting. @param {Problem} problem Why. */
  close(problem) {
    this.isClosed = true;
    this.problem = problem;
    this.shell.update();
  }

  /** Send the text after a pause in typing. @param {string} text */
  type(text) {
    this.text = text;
    clearTimeout(this.pause);
    const wait = Math.max(PAUSE_MS, this.sentAt + SPACING_MS - performance.now());
    this.pause = setTimeout(() => this.send(), wait);
  }

  /** The calendar would count a text once for each pause in typing. */
  send() {
    this.sentAt = performance.now();
    if (!this.text.trim()) this.answer = null;
    else if (this.people) this.socket?.send(JSON.stringify({ text: this.text, history: false }));
    if (this.people) this.problem = null;
    this.shell.update();
  }

  view() {
    return html`<section class="two">
      <div class="stack">
        <h1>${S.words.title}</h1>
        <p class="lead">${S.words.lead}</p>
        <label class="field">
          ${S.words.label}
          <textarea
            rows="6" maxlength=${MAX_CHARACTERS} dir="auto" placeholder=${S.words.placeholder} .value=${this.text}
            @input=${(/** @type {{target: HTMLTextAreaElement}} */ event) => this.type(event.target.value)}
          ></textarea>
        </label>
        ${this.text.length < MAX_CHARACTERS ? nothing : html`<p class="small">${fill(S.words.longest, { count: MAX_CHARACTERS })}</p>`}
        <p class="small quiet-text">${this.status()}</p>
        ${this.problem ? failure(this.shell, this.problem, this.retry()) : nothing}
      </div>
      <div class="verdict card">${this.answer ? this.verdict(this.answer) : html`<p class="lead">${S.words.empty}</p>`}</div>
    </section>`;
  }

  /** What to try again; nothing while it connects by itself, or where the same text fails again. */
  retry() {
    if (this.isClosed) return () => this.connect();
    return this.people && this.problem?.isPassing ? () => this.send() : null;
  }

  status() {
    if (!this.people) return this.isClosed ? S.words.closed : S.words.connecting;
    return this.people === 1 ? S.words.alone : fill(S.words.people, { count: this.people });
  }

  /** @param {Classification} answer */
  verdict({ label, score, scores, language_supported }) {
    return html`<h2 class="emotion ${emotionClass(label)}">${emotionName(label)}</h2>
      <p class="lead">${percent(score)}</p>
      ${language_supported ? nothing : html`<p class="tip">${S.words.language}</p>`} ${bars(scores, S.words.scores)}
      <p class="small quiet-text">${S.words.sum}</p>`;
  }
}

/** @param {import("./ui.js").Shell} shell */
export const open = (shell) => new Words(shell);
