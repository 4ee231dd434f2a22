// A link to the worker that does what the server does, for a page without one. It is used as a WebSocket is.

import { Recorder } from "./recorder.js";

export class WorkerLink {
  readyState = WebSocket.OPEN;

  constructor(address) {
    this.worker = new Worker(address, { type: "module" });
    this.worker.onmessage = ({ data }) => this.onmessage({ data });
    this.worker.onerror = ({ message }) => {
      this.close();
      const text = `The model has stopped: ${message || "its program could not be loaded"}. Reload the page to start again.`;
      this.answer({ type: "ended", text });
    };
  }

  send(message) {
    const { type, on } = typeof message === "string" ? JSON.parse(message) : {};
    if (type === "record") return this.record(on); // the worker does not see what is on screen
    if (type === "ack") this.recorder?.add();
    this.worker.postMessage(message);
  }

  record(on) {
    if (!on) return this.recorder?.end();
    URL.revokeObjectURL(this.recorded); // only the last recording is kept, as on a server
    try {
      this.recorder = new Recorder((video, frames, text) => {
        this.recorder = null;
        const name = `biflow.${video.type.split("/")[1]}`;
        this.recorded = URL.createObjectURL(video);
        this.answer({ type: "recording", on: false, name, url: this.recorded, frames, text });
      });
      this.answer({ type: "recording", on: true });
    } catch ({ message }) {
      this.answer({ type: "error", text: message });
    }
  }

  answer(message) { this.onmessage({ data: JSON.stringify(message) }); }

  close() {
    this.recorder?.end();
    this.worker.terminate();
  }
}
