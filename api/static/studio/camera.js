// The camera, and recordings of it.

/** Why there is no picture: a key of `S.camera`. */
export class CameraError extends Error {
  /** @param {keyof typeof import("./strings/en.json")["camera"]} reason */
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/** @type {Record<string, CameraError["reason"]>} */
const REASONS = {
  NotAllowedError: "refused",
  SecurityError: "refused",
  NotFoundError: "none",
  OverconstrainedError: "none",
  NotReadableError: "busy",
  AbortError: "busy",
};
const VIDEO = { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
const BITS_PER_SECOND = 2_500_000;

/**
 * Turn the camera on. Without a microphone, or if only that is refused, the stream has no sound.
 * @param {boolean} withSound
 * @throws {CameraError}
 */
export async function openCamera(withSound) {
  if (!navigator.mediaDevices?.getUserMedia) throw new CameraError(isSecureContext ? "unsupported" : "insecure");
  try {
    return await navigator.mediaDevices.getUserMedia({ video: VIDEO, audio: withSound });
  } catch (error) {
    if (withSound) return openCamera(false);
    throw new CameraError(REASONS[/** @type {DOMException} */ (error).name] ?? "none");
  }
}

/** @param {MediaStream | null} stream */
export const closeCamera = (stream) => stream?.getTracks().forEach((track) => track.stop());

/**
 * Show a stream in a video element. Setting the same one again would restart it.
 * @param {string} id
 * @param {MediaStream | null} stream
 */
export function showStream(id, stream) {
  const video = /** @type {HTMLVideoElement | null} */ (document.getElementById(id));
  if (video && video.srcObject !== stream) video.srcObject = stream;
}

export const canRecord = () => "MediaRecorder" in window;

/**
 * Record a stream in the container that the browser prefers: WebM in Chrome, MP4 in Safari.
 * @param {MediaStream} stream
 * @param {number} seconds
 * @param {(elapsed: number) => void} onTick
 * @returns {{clip: Promise<Blob>, stop: () => void}}
 */
export function record(stream, seconds, onTick) {
  const recorder = new MediaRecorder(stream, { videoBitsPerSecond: BITS_PER_SECOND });
  const stop = () => recorder.state !== "inactive" && recorder.stop();
  let timer = 0;
  recorder.onstart = () => {
    const start = performance.now();
    timer = setInterval(() => {
      const elapsed = (performance.now() - start) / 1000;
      if (elapsed >= seconds) stop();
      else onTick(elapsed);
    }, 100);
  };
  /** @type {Blob[]} */
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  /** @type {Promise<Blob>} */
  const clip = new Promise((resolve) => {
    recorder.onstop = () => {
      clearInterval(timer);
      resolve(new Blob(parts, { type: recorder.mimeType }));
    };
  });
  recorder.start();
  return { clip, stop };
}

/**
 * Move a video to a time. Returns whether the browser can.
 *
 * What MediaRecorder writes as WebM has no duration and no index: the browser learns both by a jump to the end.
 * @param {HTMLVideoElement} video
 * @param {number} time Seconds.
 * @returns {Promise<boolean>}
 */
export async function seek(video, time) {
  if (video.duration === Infinity && !(await jump(video, Number.MAX_SAFE_INTEGER))) return false;
  return jump(video, time);
}

/** @param {HTMLVideoElement} video @param {number} time */
function jump(video, time) {
  return new Promise((resolve) => {
    // Listeners of events that do not come would stay.
    video.onseeked = () => resolve(true);
    video.onerror = () => resolve(false);
    video.currentTime = time;
  });
}
