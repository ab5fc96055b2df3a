// The companion: who writes about the moment gets one question to write about, streamed by `POST /api/companion`.
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { Problem, call, events } from "./api.js";
import { S } from "./strings.js";
import { failure } from "./ui.js";

const HELPLINES = "findahelpline.com"; // in every fixed answer to words of crisis

/** @type {Promise<{enabled: boolean, max_characters: number}> | null} What the service said once. */
let state = null;

async function fetchState() {
  return (await call("api/companion")).json();
}

export class Companion {
  isOn = false;
  maxCharacters = 0;
  text = "";
  question = "";
  /** The fixed answer to words of crisis. */
  support = "";
  /** @type {Problem | null} */
  problem = null;
  /** @type {AbortController | null} */
  running = null;

  /** @param {import("./ui.js").Shell} shell @param {{emotion: string, confidence: number}} answer */
  constructor(shell, { emotion, confidence }) {
    this.shell = shell;
    this.moment = { emotion, confidence };
    this.load();
  }

  stop() {
    this.running?.abort();
  }

  async load() {
    try {
      const { enabled, max_characters } = await (state ??= fetchState());
      this.isOn = enabled;
      this.maxCharacters = max_characters;
    } catch {
      state = null; // The result is shown without it.
    }
    this.shell.update();
  }

  async ask() {
    if (this.running || !this.text.trim()) return;
    const running = (this.running = new AbortController());
    this.question = this.support = "";
    this.problem = null;
    this.shell.update();
    try {
      const response = await call("api/companion", {
        method: "POST", body: { ...this.moment, text: this.text }, accept: "text/event-stream", signal: running.signal,
      });
      let last = "";
      for await (const { name, data } of events(response)) {
        this.receive(name, data);
        last = name;
      }
      if (last !== "done") throw new Problem("offline"); // It broke off.
    } catch (error) {
      this.problem = running.signal.aborted ? null : error instanceof Problem ? error : new Problem("offline");
    }
    this.running = null;
    if (!running.signal.aborted) this.shell.announce(this.question);
    this.shell.update();
  }

  /** @param {string} name @param {{text: string, code: string, message: string}} data */
  receive(name, data) {
    if (name === "question") this.question += data.text;
    else if (name === "support") this.support = data.text;
    else if (name === "error") throw new Problem(data.code, data.message);
    this.shell.update();
  }

  view() {
    if (!this.isOn) return nothing;
    return html`<section class="card companion">
      <form class="stack" @submit=${(/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        this.ask();
      }}>
        <h2>${S.companion.title}</h2>
        <p class="small quiet-text" id="companion-help">${S.companion.lead}</p>
        <textarea
          rows="4" required maxlength=${this.maxCharacters} dir="auto" .value=${this.text} aria-label=${S.companion.label} aria-describedby="companion-help"
          placeholder=${S.companion.placeholder}
          @input=${(/** @type {{target: HTMLTextAreaElement}} */ { target }) => (this.text = target.value)}
        ></textarea>
        <div class="row">
          ${this.running
            ? html`<button type="button" @click=${() => this.stop()}>${S.companion.stop}</button>`
            : html`<button class="primary">${S.companion.ask}</button>`}
        </div>
      </form>
      ${this.answer()}
    </section>`;
  }

  answer() {
    if (this.support) return support(this.support);
    return html`${this.question || this.running
        ? html`<blockquote class="question ${this.running ? "running" : ""}" dir="auto">
            ${this.question || html`<span class="quiet-text">${S.companion.thinking}</span>`}
          </blockquote>`
        : nothing}
    ${this.problem ? failure(this.shell, this.problem, () => this.ask()) : nothing}`;
  }
}

/** @param {string} text */
function support(text) {
  const link = html`<a href="https://${HELPLINES}" target="_blank" rel="noreferrer">${HELPLINES}</a>`;
  return html`<div class="note support" role="alert">
    <h3>${S.companion.support}</h3>
    ${text.split("\n").map((line) => {
      const [before, after] = line.split(HELPLINES);
      return html`<p>${before}${after === undefined ? nothing : html`${link}${after}`}</p>`;
    })}
  </div>`;
}
