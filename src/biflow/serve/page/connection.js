// The WebSocket to the server, and connecting again when it is lost; or the link to a worker in place of a server.

import { banner, note, status } from "./messages.js";
import { state } from "./state.js";
import { WorkerLink } from "./worker-link.js";

const WORKER = document.querySelector("meta[name=worker]")?.content;

const SILENT = 15000; // ms without a message, though every ping is answered: a phone that changed its network, say

let socket, retrying, attempt = 0, ended = false, heard = 0;
let drawing = Promise.resolve();
let handlers; // { message, frame }: what to do with a JSON message, and with the bytes of a frame

export function start(both) {
  handlers = both;
  document.addEventListener("visibilitychange", () => { heard = performance.now(); }); // hidden, it hears little
  connect();
}

function connect() {
  clearTimeout(retrying);
  heard = performance.now();
  const link = socket = WORKER ? new WorkerLink(WORKER) : new WebSocket(serverAddress());
  let opened = false;
  link.binaryType = "arraybuffer";
  link.onopen = () => { opened = true; };
  link.onmessage = ({ data }) => {
    if (link !== socket) return;
    heard = performance.now();
    if (typeof data === "string") return handlers.message(JSON.parse(data));
    drawing = drawing.then(() => link === socket && handlers.frame(data)).catch(console.error); // one after the other
  };
  link.onclose = async () => {
    const reason = opened ? "" : await refusal();
    if (link === socket) lost(reason || "The connection to the server was lost.", reason ? "Refused" : "Not connected");
  };
}

function serverAddress() {
  const address = new URL("ws", location.href); // a proxy may have the page under another path
  address.protocol = address.protocol.replace("http", "ws");
  if (state.session) address.searchParams.set("session", state.session);
  return address;
}

// A WebSocket does not say why it was refused. A POST to the same address carries the same origin, and gets the sentence.
async function refusal() {
  const answer = await fetch("ws", { method: "POST" }).catch(() => null);
  return [401, 403, 421].includes(answer?.status) ? answer.text() : "";
}

function lost(text, short) {
  if (ended) return;
  state.recording = false;
  status("lost", short);
  note("");
  const seconds = later();
  banner(`${text} Trying again ${seconds < 1 ? "now" : `every ${Math.round(seconds)} s`}.`);
}

export function ping() {
  send({ type: "ping", at: performance.now() });
  if (WORKER || ended || document.hidden) heard = performance.now();
  if (socket?.readyState !== WebSocket.OPEN || performance.now() - heard < SILENT) return;
  const dead = socket;
  lost("The connection to the server was lost.", "Not connected");
  dead.close(); // which it says only after the other side has, or after minutes
}

function later() { // connect again; the seconds until then
  socket = null;
  const seconds = Math.min(5, 0.5 * 2 ** attempt++);
  clearTimeout(retrying);
  retrying = setTimeout(connect, 1000 * seconds);
  return seconds;
}

export function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(message instanceof Blob ? message : JSON.stringify(message));
}

export function welcome() {
  attempt = 0;
  banner("");
  note("");
  status("live", "Live");
}

export function wait(text) { // the server is not ready, or has no place: nothing is wrong
  socket.onclose = null;
  attempt = 1;
  banner("");
  note(text);
  status("wait", "Waiting");
  later();
}

export function loading(text) { // the worker's files
  note(text);
  status("wait", "Loading");
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
  socket?.close();
  connect();
}
