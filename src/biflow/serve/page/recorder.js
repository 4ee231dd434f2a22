// Records what is on screen, for a page without a server: a video that plays at the pace at which it was shown.

import { canvases, twoUp } from "./state.js";

const KINDS = ["video/mp4;codecs=avc1.42E01E", "video/webm;codecs=vp9", "video/webm"];
const SIDE = 512, BITS = 8e6; // pixels that frames are enlarged to, in whole steps; per second
const MOST = 120 * 2 ** 20; // bytes, as on a server
const LAST = 300; // ms until the last frame has been painted and encoded; nothing tells when

export class Recorder {
  // `ended` gets the video as a Blob, the number of its frames, and a sentence if it has ended by itself.
  constructor(ended) {
    const type = KINDS.find((kind) => globalThis.MediaRecorder?.isTypeSupported(kind));
    if (!type) throw new Error("This browser cannot record videos.");
    this.frames = this.bytes = 0;
    this.text = "";
    this.canvas = document.createElement("canvas");
    this.add();
    const parts = [];
    this.recorder = new MediaRecorder(this.canvas.captureStream(), { mimeType: type, videoBitsPerSecond: BITS });
    this.recorder.ondataavailable = ({ data }) => {
      parts.push(data);
      this.bytes += data.size;
      if (this.bytes > MOST) this.end("The recording has reached 120 MB.");
    };
    this.recorder.onstop = () => ended(new Blob(parts, { type: type.split(";")[0] }), this.frames, this.text);
    this.recorder.start(1000);
  }

  add() { // the frame on screen
    if (this.ending) return;
    const shown = twoUp() ? canvases : [canvases[0]], { canvas } = this;
    const scale = Math.max(1, Math.floor(SIDE / Math.max(shown[0].width, shown[0].height)));
    const [width, height] = [shown[0].width * scale, shown[0].height * scale];
    if (!this.frames) Object.assign(canvas, { width: width * shown.length, height });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    shown.forEach((one, i) => context.drawImage(one, i * width, 0, width, height));
    this.frames++;
  }

  end(text = "") {
    if (this.ending) return;
    this.ending = true;
    this.text = text;
    setTimeout(() => this.recorder.stop(), LAST);
  }
}
