// The cover: the loop of the best moment, which can be saved and shared.
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { S } from "./strings.js";
import { icon, prefersStill } from "./ui.js";

export class Cover {
  isPlaying = !prefersStill;

  /**
   * @param {import("./ui.js").Shell} shell
   * @param {{loop: Blob, poster: Blob, width: number, height: number, name: string}} parts The name is that of files.
   */
  constructor(shell, { loop, poster, width, height, name }) {
    this.shell = shell;
    this.size = { width, height };
    this.name = name;
    this.urls = { loop: URL.createObjectURL(loop), poster: URL.createObjectURL(poster) };
    this.files = [new File([loop], `${name}.mp4`, { type: loop.type })];
  }

  dispose() {
    for (const url of Object.values(this.urls)) URL.revokeObjectURL(url);
  }

  toggle() {
    const video = /** @type {HTMLVideoElement} */ (document.getElementById("loop"));
    this.isPlaying = !this.isPlaying;
    if (this.isPlaying) video.play();
    else video.pause();
    this.shell.update();
  }

  view() {
    const label = this.isPlaying ? S.result.pause : S.result.play;
    return html`<figure class="loop">
      <div class="player">
        <video
          id="loop" src=${this.urls.loop} poster=${this.urls.poster} width=${this.size.width} height=${this.size.height}
          .muted=${true} ?autoplay=${this.isPlaying} loop playsinline aria-label=${S.result.loop}
        ></video>
        <button class="over round corner" aria-label=${label} @click=${() => this.toggle()}>
          ${icon(this.isPlaying ? "pause" : "play")}
        </button>
      </div>
      <figcaption class="visually-hidden">${S.result.loop}</figcaption>
      <div class="row">
        <a class="button" href=${this.urls.loop} download="${this.name}.mp4">${icon("download")}${S.result.download}</a>
        <a class="button" href=${this.urls.poster} download="${this.name}.jpg">${icon("picture")}${S.result.poster}</a>
        ${this.shareButton()}
      </div>
    </figure>`;
  }

  shareButton() {
    if (!navigator.canShare?.({ files: this.files })) return nothing;
    // A user who closes the share sheet is no error.
    const share = () => navigator.share({ files: this.files, title: S.app.name }).catch(() => {});
    return html`<button @click=${share}>${icon("share")}${S.result.share}</button>`;
  }
}
