// The log of all calls, for operators: filters, calls and errors over time, latencies, a table, CSV.
import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { Problem, asProblem, call, credential } from "./api.js";
import { S, emotionName, fill, locale, percent } from "./strings.js";
import { facts, failure, icon } from "./ui.js";

/**
 * @typedef {object} Call
 * @property {string} timestamp
 * @property {string} method
 * @property {string} endpoint
 * @property {number | null} status_code
 * @property {boolean | null} success
 * @property {number | null} latency_ms
 * @property {string | null} client_id
 * @property {string | null} prediction
 * @property {number | null} confidence
 * @property {string | null} error
 * @property {string} request_id
 */

const PAGE = 25;
const SAMPLE = 1000; // The most that one call of GET /logs returns.
const CSV_PAGES = 100; // A limit to the memory of the page.
const BINS = 48;
const isWide = matchMedia("(min-width: 48rem)").matches;
const OPEN_ENDED = 101; // The status of a connection: its latency is how long it lasted.
/** @type {[keyof typeof S.log.filters, string][]} */
const FILTERS = [
  ["start_date", "datetime-local"],
  ["end_date", "datetime-local"],
  ["endpoint", "text"],
  ["status_code", "number"],
  ["prediction", "text"],
  ["error", "text"],
  ["model", "text"],
  ["modalities", "text"],
  ["caller", "text"],
  ["client_id", "text"],
  ["request_id", "text"],
  ["job", "text"],
];
/** Values that the service takes, by the type of the field. @type {Record<string, {min: string, max: string}>} */
const RANGES = {
  "datetime-local": { min: "1970-01-01T00:00", max: "2999-12-31T23:59" },
  number: { min: "100", max: "599" },
};
/** Filters with few values. The service compares them exactly, so the form suggests those of the calls shown. */
const SUGGESTED = ["endpoint", "prediction", "error", "model", "modalities", "caller", "client_id"];
const PAGE_FILES = ["/", "/favicon.ico", "/static/<path:filename>", "/static/v-<version>/<path:filename>"];
const asTime = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
const asShortTime = new Intl.DateTimeFormat(locale, {
  month: "short", day: "numeric", hour: "numeric", minute: "2-digit", second: "2-digit",
});

/** @typedef {import("./ui.js").Screen} Screen */

/** @implements {Screen} */
class Log {
  /** @type {Call[]} */
  calls = [];
  /** @type {string | null} */
  cursor = null;
  /** What the fields of the form say. @type {Record<string, string>} */
  entered = {};
  /** @type {Record<string, string>} */
  filters = {};
  /** @type {Problem | null} */
  problem = null;
  /** What failed, to try it again. @type {() => unknown} */
  retry = () => this.load();
  page = 0;
  withFiles = false;
  /** The request id that was copied last. */
  copied = "";
  /** Whether there are calls that are too old for the CSV file. */
  isCut = false;
  isFormOpen = isWide;
  isLoading = false;

  /** @param {import("./ui.js").Shell} shell */
  constructor(shell) {
    this.shell = shell;
  }

  /** Show the newest calls, by the filters that the screen was left with. */
  enter() {
    this.isFormOpen = isWide || Object.keys(this.filters).length > 0;
    this.load();
  }

  leave() {}

  reload() {
    this.load();
  }

  /** Load the newest calls, or older ones. @param {string} [cursor] */
  async load(cursor = "") {
    if (!credential() && !(await this.shell.askForCredential())) {
      this.problem = new Problem("no_credential");
      return this.shell.update();
    }
    this.isLoading = true;
    this.isCut = false;
    this.problem = null;
    this.shell.update();
    try {
      const response = await call("logs", { query: { ...this.filters, limit: String(SAMPLE), cursor } });
      const { logs, next_cursor } = await response.json();
      this.calls = cursor ? [...this.calls, ...logs] : logs;
      this.cursor = next_cursor;
      if (!cursor) this.page = 0;
      this.shell.announce(fill(S.log.found, { count: this.calls.length }));
    } catch (error) {
      this.fail(error, () => (cursor ? this.turn(this.page + 1) : this.load()));
    }
    this.isLoading = false;
    this.shell.update();
  }

  /** @param {unknown} error @param {() => unknown} retry */
  fail(error, retry) {
    this.problem = asProblem(error);
    this.retry = retry;
  }

  /** @param {SubmitEvent} event */
  filter(event) {
    event.preventDefault();
    this.entered = {};
    this.filters = {};
    for (const [name, value] of new FormData(/** @type {HTMLFormElement} */ (event.target))) {
      if (typeof value !== "string" || !value.trim()) continue;
      this.entered[name] = value;
      this.filters[name] = name.endsWith("_date") ? toUtc(value, name === "end_date") : value.trim();
    }
    this.load();
  }

  toggleFiles() {
    this.withFiles = !this.withFiles;
    this.page = 0;
    this.shell.update();
  }

  async saveCsv() {
    this.isLoading = true;
    this.isCut = false;
    this.problem = null;
    this.shell.update();
    try {
      /** @type {string[]} */
      const pages = [];
      let cursor = "";
      while (pages.length === 0 || (cursor && pages.length < CSV_PAGES)) {
        const query = { ...this.filters, limit: String(SAMPLE), cursor };
        const response = await call("logs", { query, accept: "text/csv" });
        const text = await response.text();
        pages.push(pages.length ? text.slice(text.indexOf("\n") + 1) : text); // the names of the columns once
        cursor = response.headers.get("x-next-cursor") ?? "";
      }
      const url = URL.createObjectURL(new Blob(pages, { type: "text/csv" }));
      Object.assign(document.createElement("a"), { href: url, download: "moodreel-log.csv" }).click();
      URL.revokeObjectURL(url);
      this.isCut = Boolean(cursor);
      if (this.isCut) this.shell.announce(this.cut());
    } catch (error) {
      this.fail(error, () => this.saveCsv());
    }
    this.isLoading = false;
    this.shell.update();
  }

  /** @param {string} id Of a request. */
  async copy(id) {
    await navigator.clipboard.writeText(id);
    this.copied = id;
    this.shell.announce(S.log.copied);
  }

  /** @param {number} page */
  async turn(page) {
    if (page * PAGE >= this.shown.length && this.cursor) await this.load(this.cursor);
    if (page * PAGE < this.shown.length) this.page = page;
    this.shell.update();
  }

  view() {
    return html`<section class="stack">
      <h1>${S.log.title}</h1>
      ${this.form()} ${this.problem ? failure(this.shell, this.problem, this.retry) : nothing}
      ${this.isCut ? html`<p class="lead">${this.cut()}</p>` : nothing}
      ${this.shown.length ? this.found() : this.nothingFound()}
    </section>`;
  }

  cut() {
    return fill(S.log.cut, { count: new Intl.NumberFormat(locale).format(CSV_PAGES * SAMPLE) });
  }

  nothingFound() {
    if (this.problem) return nothing;
    if (this.isLoading) return html`<p class="lead">${S.app.loading}</p>`;
    // All that was loaded may be files of pages.
    const older = this.cursor && html`<div class="row"><button @click=${() => this.turn(0)}>${S.log.older}</button></div>`;
    return html`<p class="lead">${older ? S.log.noneYet : S.log.none}</p>${older || nothing}`;
  }

  /** The calls to show: by default not those of pages for their own files. */
  get shown() {
    return this.withFiles ? this.calls : this.calls.filter(({ endpoint }) => !PAGE_FILES.includes(endpoint));
  }

  form() {
    return html`<details class="plain" ?open=${this.isFormOpen}>
      <summary>${S.log.filter}</summary>
      ${this.fields()}
    </details>`;
  }

  fields() {
    return html`<form class="filters" @submit=${(/** @type {SubmitEvent} */ event) => this.filter(event)}>
      ${FILTERS.map(
        ([name, type]) => html`<label class="field">
          ${S.log.filters[name]}
          <input
            name=${name} type=${type} .value=${this.entered[name] ?? ""} autocomplete="off"
            min=${RANGES[type]?.min ?? nothing} max=${RANGES[type]?.max ?? nothing}
            list=${SUGGESTED.includes(name) ? `values-${name}` : nothing}
          />
        </label>`,
      )}
      ${SUGGESTED.map((name) => suggestions(name, this.shown))}
      <label class="field">
        ${S.log.filters.success}
        <select name="success" .value=${this.entered.success ?? ""}>
          <option value="">${S.log.any}</option>
          <option value="True">${S.log.succeeded}</option>
          <option value="False">${S.log.failed}</option>
        </select>
      </label>
      <label class="check">
        <input type="checkbox" .checked=${this.withFiles} @change=${() => this.toggleFiles()} />
        ${S.log.files}
      </label>
      <div class="row">
        <button class="primary" ?disabled=${this.isLoading}>${S.log.apply}</button>
        <button type="button" ?disabled=${this.isLoading} @click=${() => this.saveCsv()}>
          ${icon("download")}${S.log.csv}
        </button>
      </div>
    </form>`;
  }

  found() {
    const calls = this.shown;
    const latencies = calls
      .filter(({ latency_ms, status_code }) => latency_ms !== null && status_code !== OPEN_ENDED)
      .map(({ latency_ms }) => Number(latency_ms))
      .sort((one, other) => one - other);
    const failed = calls.filter(({ success }) => success === false).length;
    /** @type {[string, unknown][]} */
    const figures = [
      [S.log.calls, calls.length + (this.cursor ? "+" : "")],
      [S.log.errors, `${failed} (${percent(failed / calls.length)})`],
    ];
    for (const rank of [50, 95, 99]) {
      figures.push([fill(S.log.percentile, { rank }), milliseconds(percentile(latencies, rank))]);
    }
    return html`${facts(figures, "figures")} ${histogram(calls)} ${this.table()}`;
  }

  table() {
    const rows = this.shown.slice(this.page * PAGE, (this.page + 1) * PAGE);
    const hasOlder = (this.page + 1) * PAGE < this.shown.length || this.cursor !== null;
    return html`<div class="scroll" tabindex="0" role="region" aria-label=${S.log.table}>
        <table>
          <thead><tr>${Object.values(S.log.columns).map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
          <tbody>${rows.map((each) => this.row(each))}</tbody>
        </table>
      </div>
      <div class="row">
        <button ?disabled=${this.page === 0} @click=${() => this.turn(this.page - 1)}>${S.log.newer}</button>
        <button ?disabled=${!hasOlder || this.isLoading} @click=${() => this.turn(this.page + 1)}>${S.log.older}</button>
      </div>`;
  }

  /** @param {Call} each */
  row(each) {
    const { timestamp, method, endpoint, status_code, success, latency_ms, prediction, confidence } = each;
    const { error, client_id, request_id } = each;
    return html`<tr class=${success === false ? "failed" : ""}>
      <td title=${asTime.format(new Date(timestamp))}>${asShortTime.format(new Date(timestamp))}</td>
      <td>${method} ${endpoint}</td>
      <td class="number">${status_code ?? S.log.unfinished}</td>
      <td class="number">${latency_ms === null ? "" : milliseconds(latency_ms)}</td>
      <td>${prediction ? `${emotionName(prediction)}${confidence === null ? "" : ` ${percent(confidence)}`}` : ""}</td>
      <td>${error ?? ""}</td>
      <td>${client_id ?? ""}</td>
      <td><span class="id">${request_id}</span> ${this.copyButton(request_id)}</td>
    </tr>`;
  }

  /** Browsers copy only on https pages and on localhost. @param {string} id Of a request. */
  copyButton(id) {
    if (!navigator.clipboard) return nothing;
    return html`<button class="quiet copy" aria-label=${S.log.copy} @click=${() => this.copy(id)}>
      ${icon(id === this.copied ? "check" : "copy")}
    </button>`;
  }
}

/**
 * Return the time of a field, which is local: the service takes times without a zone for UTC.
 * @param {string} value Such as 2025-08-16T12:34; with seconds where they were entered.
 * @param {boolean} isEnd Whether the whole minute is meant.
 */
const toUtc = (value, isEnd) => new Date(isEnd && value.length === 16 ? `${value}:59` : value).toISOString();

/** @param {string} name @param {Call[]} calls */
function suggestions(name, calls) {
  const values = new Set(calls.map((each) => /** @type {Record<string, any>} */ (each)[name]).filter(Boolean));
  return html`<datalist id="values-${name}">
    ${[...values].sort().map((value) => html`<option value=${value}></option>`)}
  </datalist>`;
}

/** Return a percentile by the nearest-rank method. @param {number[]} sorted @param {number} rank */
function percentile(sorted, rank) {
  return sorted[Math.max(0, Math.ceil((rank / 100) * sorted.length) - 1)] ?? 0;
}

/** @param {number} value */
const milliseconds = (value) => fill(S.live.ms, { value: Math.round(value).toLocaleString(locale) });

/** Draw the calls in equal spans of time, those that failed in another color. @param {Call[]} calls */
function histogram(calls) {
  const times = calls.map(({ timestamp }) => Date.parse(timestamp));
  const [first, last] = [Math.min(...times), Math.max(...times)];
  const bins = Array.from({ length: BINS }, () => ({ all: 0, failed: 0 }));
  calls.forEach(({ success }, index) => {
    const bin = bins[Math.min(BINS - 1, Math.floor(((times[index] - first) / (last - first || 1)) * BINS))];
    bin.all += 1;
    if (success === false) bin.failed += 1;
  });
  const top = Math.max(...bins.map(({ all }) => all));
  const bar = (/** @type {number} */ count, /** @type {number} */ index, /** @type {string} */ style) =>
    svg`<rect class=${style} x=${index * 10 + 1} width="8" y=${100 - (100 * count) / top} height=${(100 * count) / top}></rect>`;
  return html`<figure class="stack-small">
    <figcaption class="small quiet-text between">
      <span>${S.log.overTime}</span><span>${fill(S.log.most, { count: top })}</span>
    </figcaption>
    <svg class="histogram" viewBox="0 0 ${BINS * 10} 100" preserveAspectRatio="none" role="img" aria-label=${S.log.overTime}>
      ${bins.map(({ all, failed }, index) => svg`${bar(all, index, "all")}${bar(failed, index, "bad")}`)}
    </svg>
    <p class="small quiet-text between">
      <span>${asShortTime.format(first)}</span><span>${asShortTime.format(last)}</span>
    </p>
  </figure>`;
}

/** @type {Log | null} */
let log = null;

/** @param {import("./ui.js").Shell} shell */
export function open(shell) {
  log ??= new Log(shell);
  log.enter();
  return log;
}
