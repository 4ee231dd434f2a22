// The WebSocket to the server, and connecting again when it is lost.

import { banner, status } from "./messages.js";
import { state } from "./state.js";

let socket, retrying, attempt = 0, ended = false;
let drawing = Promise.resolve();
let handlers; // { message, frame }: what to do with a JSON message, and with the bytes of a frame

export function start(both) {
  handlers = both;
  connect();
}

function connect() {
  clearTimeout(retrying);
  const query = state.session ? `?session=${encodeURIComponent(state.session)}` : "";
  const link = socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/ws${query}`);
  link.binaryType = "arraybuffer";
  link.onmessage = ({ data }) => {
    if (link !== socket) return;
    if (typeof data === "string") return handlers.message(JSON.parse(data));
    drawing = drawing.then(() => link === socket && handlers.frame(data)).catch(console.error); // one after the other
  };
  link.onclose = () => { if (link === socket) lost("The connection to the server was lost."); };
}

function lost(text) {
  if (ended) return;
  socket = null;
  state.recording = false;
  status("lost", "Not connected");
  const seconds = Math.min(5, 0.5 * 2 ** attempt++);
  banner(`${text} Trying again ${seconds < 1 ? "now" : `every ${Math.round(seconds)} s`}.`);
  clearTimeout(retrying);
  retrying = setTimeout(connect, 1000 * seconds);
}

export function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(message instanceof Blob ? message : JSON.stringify(message));
}

export function welcome() {
  attempt = 0;
  banner("");
  status("live", "Live");
}

export function wait(text) { // the server has no place yet
  socket.onclose = null;
  attempt = 1;
  lost(text);
  status("wait", "Waiting");
}

export function end(text) {
  ended = true;
  state.session = null;
  status("lost", "Ended");
  banner(text, "Start another");
}

export function retry() {
  ended = false;
  state.header = null;
  connect();
}
