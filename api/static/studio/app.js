// The frame of the studio: navigation, the dialog for the key, and the screen that the address names.
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { Problem, asProblem, call, credential, keepCredential } from "./api.js";
import { S } from "./strings.js";
import { icon, note } from "./ui.js";

/** @type {Record<keyof typeof S.screens, () => Promise<{open: (shell: import("./ui.js").Shell) => import("./ui.js").Screen}>>} */
const SCREENS = {
  moment: () => import("./moment.js"),
  live: () => import("./live.js"),
  words: () => import("./words.js"),
  calendar: () => import("./calendar.js"),
  log: () => import("./log.js"),
};
const root = /** @type {HTMLElement} */ (document.getElementById("app"));

/** @type {import("./ui.js").Screen | null} */
let screen = null;
/** @type {keyof typeof SCREENS} */
let current = "moment";
let announcement = "";
/** @type {{message: string} | null} */
let keyProblem = null;
/** @type {AbortController | null} Of the key or token that is being checked. */
let checking = null;
/** @type {(isGiven: boolean) => void} */
let answerDialog = () => {};

const dialog = () => /** @type {HTMLDialogElement} */ (document.getElementById("key"));
const credentialField = () => /** @type {HTMLInputElement} */ (document.getElementById("credential"));

/** @type {import("./ui.js").Shell} */
const shell = {
  update,
  announce(text) {
    announcement = text;
    update();
  },
  askForCredential(problem) {
    answerDialog(false);
    keyProblem = problem ? { message: problem } : null;
    update();
    dialog().returnValue = "";
    if (!dialog().open) dialog().showModal();
    return new Promise((resolve) => (answerDialog = resolve));
  },
};

/** Check the key or token that was entered, and keep it if it is valid. @param {SubmitEvent} event */
async function submitCredential(event) {
  event.preventDefault();
  const value = credentialField().value.trim();
  const { signal } = (checking = new AbortController());
  keyProblem = null;
  update();
  try {
    if (/[^\x20-\xff]/.test(value)) throw new Problem("unauthorized"); // No header can carry it.
    await call("auth/profile", { as: value, signal });
    keepCredential(value);
    dialog().close("given");
  } catch (error) {
    if (signal.aborted) return;
    // A wrong key needs no reference of the call.
    keyProblem = { message: asProblem(error).message };
  }
  checking = null;
  update();
}

/** Answer who asked for a key or token. Who closes the dialog while one is checked does not want it any more. */
function finishDialog() {
  checking?.abort();
  checking = null;
  credentialField().value = "";
  // The event may come when the dialog is open again.
  if (!dialog().open) answerDialog(dialog().returnValue === "given");
  update();
}

async function changeCredential() {
  if (await shell.askForCredential()) screen?.reload?.();
}

/** Forget the key or token, and with it what the page shows, has kept and is connected to. */
function forgetCredential() {
  keepCredential("");
  location.hash = "moment";
  location.reload();
}

/** What is shown if a file of a screen did not arrive: the service is away, or has been upgraded. */
const missing = {
  view: () => note(new Problem("page_outdated"), html`<button @click=${loadAgain}>${S.moment.retry}</button>`),
  leave() {},
};

/** Load the missing screen again, else the whole page. Without a connection, what other screens have would be lost. */
async function loadAgain() {
  screen = null;
  await navigate();
  if (screen === missing && (await fetch("health").catch(() => null))) location.reload();
}

async function navigate() {
  const name = location.hash.slice(1);
  const next = Object.hasOwn(SCREENS, name) ? /** @type {keyof typeof SCREENS} */ (name) : "moment";
  if (screen && next === current) return;
  const isFirst = !screen;
  dialog()?.close(); // It asked for the screen that is left.
  screen?.leave();
  screen = null;
  current = next;
  announcement = "";
  update();
  try {
    const { open } = await SCREENS[next]();
    if (current !== next || screen) return;
    screen = open(shell);
  } catch {
    screen = missing;
  }
  document.title = `${S.screens[next]} · ${S.app.name}`;
  update();
  if (!isFirst) document.getElementById("main")?.focus();
}

function update() {
  const focused = document.activeElement;
  const place = focused?.closest(".stage, .companion, main");
  render(frame(), root);
  // Where the button that was pressed is gone, the one in its place is next for the keyboard.
  if (place && !focused?.isConnected) {
    (place.isConnected ? place.querySelector("button") : document.getElementById("main"))?.focus();
  }
}

function frame() {
  return html`<a class="skip" href="#main" @click=${skip}>${S.app.skip}</a>
    <header>
      <a class="brand" href="#moment"><img src="favicon.ico" alt="" width="28" height="28" />${S.app.name}</a>
      ${navigation()}
      <button class="quiet" @click=${changeCredential}>${icon("key")}${S.key.open}</button>
    </header>
    <main id="main" tabindex="-1">${screen ? screen.view() : html`<p class="lead">${S.app.loading}</p>`}</main>
    <footer>
      <p>${S.app.note}</p>
      <a href="docs">${S.app.docs}</a>
    </footer>
    <p class="visually-hidden" role="status">${announcement}</p>
    ${keyDialog()}`;
}

function navigation() {
  const names = Object.entries(S.screens);
  if (names.length < 2) return nothing;
  return html`<nav aria-label=${S.app.navigation}>
    ${names.map(
      ([name, text]) => html`<a href="#${name}" aria-current=${name === current ? "page" : nothing}>${text}</a>`,
    )}
  </nav>`;
}

/** @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function keyDialog() {
  return html`<dialog id="key" aria-labelledby="key-title" @close=${finishDialog}>
    <form @submit=${submitCredential}>
      <h2 id="key-title">${S.key.title}</h2>
      <p>${S.key.lead}</p>
      <label>
        ${S.key.label}
        <input id="credential" type="password" autocomplete="off" spellcheck="false" required />
      </label>
      ${keyProblem ? note(keyProblem) : nothing}
      <div class="row">
        <button class="primary" ?disabled=${checking !== null}>${checking ? S.key.checking : S.key.save}</button>
        <button type="button" @click=${() => dialog().close()}>${S.key.cancel}</button>
        ${credential() ? html`<button type="button" class="quiet" @click=${forgetCredential}>${S.key.forget}</button>` : nothing}
      </div>
    </form>
  </dialog>`;
}

addEventListener("hashchange", navigate);
navigate();
