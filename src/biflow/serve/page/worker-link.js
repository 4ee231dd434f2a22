// A link to the worker that does what the server does, for a page without one. It is used as a WebSocket is.

export class WorkerLink {
  readyState = WebSocket.OPEN;

  constructor(address) {
    this.worker = new Worker(address, { type: "module" });
    this.worker.onmessage = ({ data }) => this.onmessage({ data });
    this.worker.onerror = ({ message }) => {
      this.worker.terminate();
      const text = `The model has stopped: ${message || "its program could not be loaded"}. Reload the page to start again.`;
      this.onmessage({ data: JSON.stringify({ type: "ended", text }) });
    };
  }

  send(message) { this.worker.postMessage(message); }

  close() { this.worker.terminate(); }
}
