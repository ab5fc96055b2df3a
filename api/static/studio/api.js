// Calls of the service. The API key or token is kept for this tab only (session storage), and is never in a URL.
import { S } from "./strings.js";

const STORAGE_KEY = "moodreel.credential";
const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]+$/; // JSON Web Tokens, compact serialization (RFC 7519)

/** The codes of answers by a proxy, which says no more than a status. @type {Record<number, string>} */
const CODES = { 413: "too_large", 429: "rate_limited", 502: "not_ready", 503: "overloaded", 504: "not_ready" };
const PASSING = ["offline", "internal", "rate_limited", "overloaded", "not_ready", "page_outdated"];
const CREDENTIAL = [
  "unauthorized", "invalid_token", "token_expired", "signed_out", "no_credential", "needs_user", "forbidden",
];

/** An error that a person is told about. */
export class Problem extends Error {
  /**
   * @param {string} code A stable code of the service, or `offline`.
   * @param {string} [detail] The service's own sentence.
   * @param {string} [requestId]
   * @param {number} [wait] Seconds until the same call may succeed.
   */
  constructor(code, detail = "", requestId = "", wait = 0) {
    const texts = /** @type {Record<string, string>} */ (S.problems);
    super(texts[code] ?? (detail || S.problems.internal));
    this.code = code;
    this.requestId = requestId;
    this.retryAt = Date.now() + 1000 * wait;
  }

  /** Whole seconds until the same call may succeed. */
  get wait() {
    return Math.max(0, Math.ceil((this.retryAt - Date.now()) / 1000));
  }

  /** Whether the same call may succeed later. Else something is wrong with what was sent. */
  get isPassing() {
    return this.isCredential || PASSING.includes(this.code);
  }

  /** Whether the key or token is to blame. */
  get isCredential() {
    return CREDENTIAL.includes(this.code);
  }
}

/** Null where the browser blocks it: the key or token is then kept until the page is left. @type {Storage | null} */
let storage = null;
try {
  storage = sessionStorage;
} catch {
  // It blocks all cookies.
}
let kept = "";

/** Return the key or token; "" if there is none. */
export const credential = () => storage?.getItem(STORAGE_KEY) ?? kept;

/** Keep a key or token; "" forgets it. @param {string} value */
export function keepCredential(value) {
  kept = value;
  if (value) storage?.setItem(STORAGE_KEY, value);
  else storage?.removeItem(STORAGE_KEY);
}

/** Whether a credential is a token of a user. */
export const isToken = (value = credential()) => TOKEN.test(value);

/** Return the credential as live connections take it. @returns {{token: string} | {api_key: string}} */
export const socketCredential = () => (isToken() ? { token: credential() } : { api_key: credential() });

/** Make a WebSocket address of this service. @param {string} path */
export function socketUrl(path) {
  const url = new URL(path, document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

/** @param {string} [sent] A key or token. @returns {Record<string, string>} */
function headers(sent = credential()) {
  const [name, value] = isToken(sent) ? ["authorization", `Bearer ${sent}`] : ["x-api-key", sent];
  return { [name]: value, "x-date": new Date().toISOString(), "x-client-id": "studio" };
}

/**
 * Call the service.
 * @param {string} path Relative to the page.
 * @param {{method?: string, query?: Record<string, string>, body?: object, accept?: string, signal?: AbortSignal,
 *   as?: string}} [options] `as` is a key or token to use in place of the one that is kept.
 * @returns {Promise<Response>}
 * @throws {Problem}
 */
export async function call(path, { method = "GET", query = {}, body, accept = "application/json", signal, as } = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  let response;
  try {
    const sent = { ...headers(as), accept, ...(body && { "content-type": "application/json" }) };
    response = await fetch(url, {
      method, headers: sent, body: body && JSON.stringify(body), credentials: "same-origin", signal,
    });
  } catch (error) {
    throw signal?.aborted ? error : new Problem("offline");
  }
  if (!response.ok) throw problem(response.status, await response.text(), response.headers.get("retry-after"));
  return response;
}

/**
 * Send a file as a form. XMLHttpRequest tells how much of it has been sent; fetch does not.
 * @template T
 * @param {string} path
 * @param {Blob} file
 * @param {Record<string, string>} fields
 * @param {{onProgress: (share: number) => void, signal: AbortSignal}} options
 * @returns {Promise<T>}
 * @throws {Problem}
 */
export function upload(path, file, fields, { onProgress, signal }) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", file, "clip");
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    request.open("POST", new URL(path, document.baseURI));
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.setRequestHeader("accept", "application/json");
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.upload.onload = () => onProgress(1);
    request.onload = () => {
      try {
        if (request.status !== 200) {
          throw problem(request.status, request.responseText, request.getResponseHeader("retry-after"));
        }
        resolve(JSON.parse(request.responseText));
      } catch (error) {
        reject(asProblem(error));
      }
    };
    request.onerror = () => reject(new Problem("offline"));
    request.onabort = () => reject(new DOMException("canceled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/**
 * Read server-sent events as they come, each with JSON as its data.
 * @param {Response} response
 */
export async function* events(response) {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = (await reader?.read()) ?? { done: true };
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop() ?? "";
    for (const block of blocks) {
      const [, name, data] = block.match(/^event: (.*)\ndata: (.*)$/) ?? [];
      if (name) yield { name, data: JSON.parse(data) };
    }
  }
}

/**
 * Read a problem (RFC 9457). A proxy's answer may be none.
 * @param {number} status
 * @param {string} text
 * @param {string | null} retryAfter Seconds, or a date.
 */
function problem(status, text, retryAfter) {
  const unknown = CODES[status] ?? "internal";
  const wait = Number(retryAfter) || (Date.parse(retryAfter ?? "") - Date.now()) / 1000 || 0;
  try {
    const { code = unknown, detail, request_id } = JSON.parse(text);
    return new Problem(code, detail, request_id, wait);
  } catch {
    return new Problem(unknown, "", "", wait);
  }
}

/** Return an error as a problem. What is none is an answer that broke off, or was not the service's. @param {unknown} error */
export const asProblem = (error) => (error instanceof Problem ? error : new Problem("internal"));

/** Decode base64. @param {string} text @param {string} type */
export function toBlob(text, type) {
  return new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))], { type });
}
