// The texts of the studio in the user's language, and formats of numbers. To add a language, translate strings/en.json
// and name the new file in LANGUAGES.

/** @typedef {typeof import("./strings/en.json")} Strings */

const LANGUAGES = ["en"];

const languageOf = (/** @type {string} */ tag) => tag.split("-")[0];

/** The user's own kind of the language, such as en-GB: dates and numbers are written so. */
export const locale = navigator.languages.find((tag) => LANGUAGES.includes(languageOf(tag))) ?? "en";

/** @type {Strings} */
export const S = await (await fetch(new URL(`./strings/${languageOf(locale)}.json`, import.meta.url))).json();

const asPercent = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 });
const asSeconds = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const asTimeFromNow = new Intl.RelativeTimeFormat(locale);

/** Format a share from 0 to 1. @param {number} share */
export const percent = (share) => asPercent.format(share);

/** Format a time in seconds. @param {number} time */
export const seconds = (time) => fill(S.units.seconds, { value: asSeconds.format(time) });

/** Format a time from now, such as "in 5 seconds". @param {number} wait Seconds. */
export const fromNow = (wait) =>
  wait < 120 ? asTimeFromNow.format(wait, "second") : asTimeFromNow.format(Math.ceil(wait / 60), "minute");

/**
 * Fill the placeholders of a text, such as {name}.
 * @param {string} text
 * @param {Record<string, string | number>} values
 */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_match, name) => String(values[name] ?? ""));
}

/** Return the name of a label of any model. @param {string} label */
export function emotionName(label) {
  const names = /** @type {Record<string, string>} */ (S.emotions);
  return names[label.toLowerCase()] ?? label;
}
