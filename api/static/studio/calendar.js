// The calendar of the signed-in user: a month of days in the color of their emotion, and the week beside what is usual.
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { Problem, asProblem, call, credential, isToken } from "./api.js";
import { S, emotionName, fill, locale } from "./strings.js";
import { emotionClass, failure, icon, prefersStill } from "./ui.js";

/**
 * @typedef {{name: string, entries: number, emotions: Record<string, number>, leading: string | null}} Period
 *
 * @typedef {object} Summary
 * @property {number} entries
 * @property {Record<string, number>} emotions
 * @property {Period[]} periods
 * @property {{entries: number, entries_needed: number, difference: Record<string, number> | null}} baseline
 *
 * @typedef {{id: string, created: string, mood: string | null, media: {name: string, type: string}[]}} Entry
 */

const tz = Intl.DateTimeFormat().resolvedOptions().timeZone;
const asMonth = new Intl.DateTimeFormat(locale, { month: "long", year: "numeric" });
const asDay = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" });
const asTime = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const asWeekday = new Intl.DateTimeFormat(locale, { weekday: "long" });
const asShortWeekday = new Intl.DateTimeFormat(locale, { weekday: "short" });
const asDifference = new Intl.NumberFormat(locale, { signDisplay: "always" });
const asLetter = new Intl.DateTimeFormat(locale, { weekday: "narrow" });

/** @typedef {import("./ui.js").Screen} Screen */

/** @implements {Screen} */
class Calendar {
  month = new Date(new Date().getFullYear(), new Date().getMonth(), 1);
  /** @type {Summary | null} */
  summary = null;
  /** @type {Summary | null} */
  week = null;
  /** @type {Entry[]} */
  entries = [];
  /** @type {Problem | null} */
  problem = null;
  /** The latest load. What an earlier one gets is another month's, or another user's. */
  loading = {};
  /** @type {string | null} The chosen day. */
  day = null;
  /** @type {Problem | null} Of the loop or picture of the chosen day. */
  mediaProblem = null;
  /** @type {Map<string, string>} Addresses of loops and pictures by entry. */
  media = new Map();
  /** @type {Set<string>} Entries whose loop or picture is here or on its way. */
  requested = new Set();

  /** @param {import("./ui.js").Shell} shell */
  constructor(shell) {
    this.shell = shell;
    this.load();
  }

  leave() {
    for (const url of this.media.values()) URL.revokeObjectURL(url);
  }

  async load() {
    const loading = (this.loading = {});
    if (!credential() || !isToken()) {
      this.problem = new Problem("needs_user");
      return this.shell.update();
    }
    this.problem = null;
    this.shell.update();
    const [start, end] = [this.month, new Date(this.month.getFullYear(), this.month.getMonth() + 1, 0)];
    const range = { start_date: toIso(start), end_date: toIso(end), tz };
    // Entries are found by UTC; a day more on each side covers every zone.
    const wide = { start_date: toIso(addDays(start, -1)), end_date: toIso(addDays(end, 1)), limit: "1000" };
    const today = toIso(new Date());
    const get = async (/** @type {string} */ path, /** @type {Record<string, string>} */ query) =>
      (await call(path, { query })).json();
    try {
      const [summary, history, week] = await Promise.all([
        get("api/history/summary", { by: "day", ...range }),
        get("api/history", wide),
        get("api/history/summary", { by: "week", start_date: today, end_date: today, tz }),
      ]);
      if (loading !== this.loading) return;
      this.summary = summary;
      this.entries = history.entries;
      this.week = week;
    } catch (error) {
      if (loading !== this.loading) return;
      this.problem = asProblem(error);
    }
    this.shell.update();
  }

  /** @param {number} months */
  turn(months) {
    this.month = new Date(this.month.getFullYear(), this.month.getMonth() + months, 1);
    this.day = this.summary = null;
    this.shell.announce(asMonth.format(this.month));
    this.load();
  }

  /** Show the days of another user. */
  reload() {
    this.week = null;
    this.turn(0);
  }

  /** Show a day, and a loop or picture of it. @param {string} day */
  async choose(day) {
    this.day = day;
    this.mediaProblem = null;
    this.shell.update();
    const entry = this.entryOf(day);
    if (!entry || this.requested.has(entry.id)) return;
    this.requested.add(entry.id);
    try {
      const response = await call(`api/history/${entry.id}/media/${entry.media[0].name}`, { accept: "*/*" });
      this.media.set(entry.id, URL.createObjectURL(await response.blob()));
    } catch (error) {
      const problem = asProblem(error);
      if (problem.code === "not_found") return this.load(); // It was deleted meanwhile.
      this.requested.delete(entry.id);
      if (day === this.day) this.mediaProblem = problem;
    }
    this.shell.update();
  }

  /** The newest entry with a loop of what the day shows; else with any loop; else with a picture. @param {string} day */
  entryOf(day) {
    const leading = this.summary?.periods.find(({ name }) => name === day)?.leading;
    const entries = this.entries.filter(({ created, media }) => media.length && toIso(new Date(created)) === day);
    const loops = entries.filter(({ media: [{ type }] }) => isVideo(type));
    return loops.find(({ mood }) => mood === leading) ?? loops[0] ?? entries[0];
  }

  view() {
    return html`<section class="two wide-left">
      <div class="stack">
        <div class="between">
          <h1>${asMonth.format(this.month)}</h1>
          <div class="row">
            <button class="round" aria-label=${S.calendar.before} @click=${() => this.turn(-1)}>${icon("left")}</button>
            <button class="round" aria-label=${S.calendar.after} @click=${() => this.turn(1)}>${icon("right")}</button>
          </div>
        </div>
        ${this.problem
          ? failure(this.shell, this.problem, () => this.load())
          : this.table()}
      </div>
      <div class="stack">${this.problem ? nothing : html`${this.detail()} ${this.weekSummary()}`}</div>
    </section>`;
  }

  table() {
    const first = addDays(this.month, -((this.month.getDay() + 6) % 7)); // weeks begin on Monday
    const weeks = Array.from({ length: 6 }, (_week, index) => addDays(first, 7 * index)).filter(
      (monday) => monday.getMonth() === this.month.getMonth() || addDays(monday, 6).getMonth() === this.month.getMonth(),
    );
    const days = (/** @type {Date} */ monday) => Array.from({ length: 7 }, (_day, index) => addDays(monday, index));
    return html`<table class="month" aria-label=${asMonth.format(this.month)}>
      <thead><tr>${days(first).map(weekday)}</tr></thead>
      <tbody>${weeks.map((monday) => html`<tr>${days(monday).map((day) => html`<td>${this.cell(day)}</td>`)}</tr>`)}</tbody>
    </table>`;
  }

  /** @param {Date} date */
  cell(date) {
    if (date.getMonth() !== this.month.getMonth()) return nothing;
    const day = toIso(date);
    const today = day === toIso(new Date()) ? "date" : nothing;
    const period = this.summary?.periods.find(({ name }) => name === day);
    if (!period) return html`<span class="day" aria-current=${today}>${date.getDate()}</span>`;
    const mood = period.leading ? emotionName(period.leading) : S.calendar.noFace;
    const choose = () => this.choose(day);
    return html`<button
      class="day ${period.leading ? emotionClass(period.leading) : ""}" aria-current=${today} aria-pressed=${day === this.day}
      aria-label="${asDay.format(date)}: ${mood}" @pointerenter=${choose} @focus=${choose} @click=${choose}
    >${date.getDate()}</button>`;
  }

  detail() {
    const period = this.summary?.periods.find(({ name }) => name === this.day);
    if (!period || !this.day) {
      if (!this.summary) return html`<p class="lead">${S.app.loading}</p>`;
      return html`<p class="lead">${this.summary.periods.length ? S.calendar.choose : S.calendar.empty}</p>`;
    }
    const { day } = this;
    const entry = this.entryOf(day);
    const url = entry && this.media.get(entry.id);
    return html`<div class="card stack">
      <h2>${asDay.format(new Date(`${day}T12:00`))}</h2>
      ${url && entry ? media(url, entry) : nothing} ${counts(period.emotions)}
      ${this.mediaProblem ? failure(this.shell, this.mediaProblem, () => this.choose(day)) : nothing}
    </div>`;
  }

  /** @param {Summary["baseline"]} baseline */
  whyNotCompared({ entries, entries_needed }) {
    return entries < entries_needed ? fill(S.calendar.notYet, { count: entries_needed }) : S.calendar.tooFew;
  }

  weekSummary() {
    if (!this.week?.entries) return nothing;
    const { emotions, baseline } = this.week;
    const points = Object.entries(baseline.difference ?? {})
      .map(([label, difference]) => ({ label, points: Math.round(100 * difference) }))
      .filter(({ points }) => points !== 0);
    return html`<div class="card stack">
      <h2>${S.calendar.week}</h2>
      ${counts(emotions)}
      ${baseline.difference
        ? html`<p class="small quiet-text">${S.calendar.usual}</p>
            ${list(points.map(({ label, points }) => [label, asDifference.format(points)]))}`
        : html`<p class="small quiet-text">${this.whyNotCompared(baseline)}</p>`}
    </div>`;
  }
}

/** @param {Date} day */
const weekday = (day) => html`<th scope="col">
  <span class="visually-hidden">${asWeekday.format(day)}</span>
  <span class="roomy" aria-hidden="true">${asShortWeekday.format(day)}</span>
  <span class="narrow" aria-hidden="true">${asLetter.format(day)}</span>
</th>`;

/** @param {string} type */
const isVideo = (type) => type.startsWith("video/");

/** @param {string} url @param {Entry} entry */
function media(url, { created, mood, media: [{ type }] }) {
  const emotion = mood ? emotionName(mood) : S.calendar.noFace;
  const label = fill(S.calendar.media, { emotion, time: asTime.format(new Date(created)) });
  if (!isVideo(type)) return html`<img class="loop-of-day" src=${url} alt=${label} />`;
  return html`<video
    class="loop-of-day" src=${url} .muted=${true} ?autoplay=${!prefersStill} ?controls=${prefersStill} loop playsinline
    aria-label=${label}
  ></video>`;
}

/** @param {Record<string, number>} emotions */
function counts(emotions) {
  return list(Object.entries(emotions).filter(([, count]) => count));
}

/** @param {[string, unknown][]} values By emotion. */
function list(values) {
  return html`<ul class="counts">
    ${values.map(([label, value]) => html`<li class=${emotionClass(label)}>${emotionName(label)} <b>${value}</b></li>`)}
  </ul>`;
}

/** Return the local date, such as 2025-08-16. @param {Date} date */
function toIso(date) {
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/** @param {Date} date @param {number} days */
const addDays = (date, days) => new Date(date.getFullYear(), date.getMonth(), date.getDate() + days);

/** @param {import("./ui.js").Shell} shell */
export const open = (shell) => new Calendar(shell);
