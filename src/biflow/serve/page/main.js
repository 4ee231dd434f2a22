// The page of `biflow serve`: what it does with the messages of the server.

import { end, retry, send, start, wait, welcome } from "./connection.js";
import { answered, ask, confirm, furnish, listen, render, reset, sendControls } from "./controls.js";
import { acceptDrops } from "./images.js";
import { listenToKeys, ownRecording } from "./keys.js";
import { toast } from "./messages.js";
import { draw, fit } from "./pictures.js";
import { pong, read } from "./readings.js";
import { $, canvases, state } from "./state.js";

const receivers = {
  hello(message) {
    const before = state.hello && message.new ? { controls: state.controls, picture: state.header } : null;
    state.hello = message;
    state.session = message.session;
    state.recording = message.recording;
    const address = new URL(location);
    address.searchParams.set("session", state.session);
    history.replaceState(null, "", address);
    welcome();
    reset();
    $("strip").replaceChildren();
    furnish();
    confirm(message.controls, message.version);
    if (before?.picture) { // the server has restarted: continue from the picture on screen
      sendControls(before.controls);
      canvases[0].toBlob(ask);
      toast("The server no longer has the session; a new one continues from the picture on screen.");
    }
  },
  controls: ({ controls, version }) => confirm(controls, version),
  told({ text }) { // the answer to every "set"
    if (text) toast(text);
    answered();
  },
  error: ({ text }) => toast(text),
  pong: ({ at }) => pong(at),
  wait: ({ text }) => wait(text),
  recording({ on, name, frames }) {
    state.recording = on;
    render();
    const own = ownRecording(on);
    if (on) return toast("Recording. Press C or the button to finish.");
    if (!name) return toast("The recording has no frames; nothing was saved.");
    const link = document.createElement("a");
    link.href = `recording/${state.session}/${name}`;
    link.download = "biflow.mp4";
    link.textContent = `Recorded ${frames} frames: biflow.mp4`;
    toast(link, 12000);
    if (own) link.click(); // other viewers get only the link
  },
  ended: ({ text }) => end(text),
};

listen();
listenToKeys();
acceptDrops();
$("retry").addEventListener("click", retry);
addEventListener("resize", fit);
setInterval(read, 500);
setInterval(() => send({ type: "ping", at: performance.now() }), 2000);
fit();
start({ message: (message) => receivers[message.type]?.(message), frame: draw });
