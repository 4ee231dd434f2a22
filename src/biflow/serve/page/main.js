// The page of `biflow serve`: what it does with the messages of the server.

import { end, loading, ping, retry, send, start, wait, welcome } from "./connection.js";
import { answered, ask, confirm, furnish, listen, render, reset, sendControls } from "./controls.js";
import { listenToGamepads } from "./gamepad.js";
import { acceptDrops } from "./images.js";
import { listenToKeys, ownRecording } from "./keys.js";
import { note, toast } from "./messages.js";
import { listenToPad, renderSteering } from "./pad.js";
import { draw, fit, forgetPast } from "./pictures.js";
import { pong, read } from "./readings.js";
import { $, canvases, offers, state } from "./state.js";
import { again, forget } from "./steering.js";

const NO_FIRST = "This model comes without pictures to start from. Choose an image of yours below";
const SERVER_FIRST = ", or have the server started with some: biflow serve … --first FOLDER";

function file(href, saved) { // a link to a file of the last recording
  return Object.assign(document.createElement("a"), {
    href,
    download: saved,
    textContent: saved,
  });
}

function nameSession() { // in the address, which is the link to it
  const address = new URL(location);
  address.searchParams.set("session", state.session);
  history.replaceState(null, "", address);
}

const receivers = {
  hello(message) {
    const before = state.hello && message.new ? { controls: state.controls, picture: state.header } : null;
    state.hello = message;
    state.session = message.session;
    state.recording = message.recording;
    state.steering = { by: null, autopilot: true };
    if (state.session) nameSession();
    welcome();
    reset();
    state.starts = message.starts;
    forgetPast();
    furnish();
    forget();
    confirm(message.controls, message.version);
    renderSteering();
    if (message.starts.now === null) note(NO_FIRST + (offers("share") ? SERVER_FIRST : "."));
    if (before?.picture) { // the server has restarted: continue from the picture on screen
      sendControls(before.controls);
      canvases[0].toBlob(ask);
      toast("The server no longer has the session; a new one continues from the picture on screen.");
    }
  },
  controls({ controls, version }) {
    confirm(controls, version);
    renderSteering();
  },
  starts({ now, own = state.starts.own }) { // pictures come only when they have changed
    state.starts = { now, own };
    note("");
    render();
  },
  steering({ by, autopilot }) {
    const lost = state.steering.by === state.hello.viewer && by !== state.hello.viewer;
    state.steering = { by, autopilot };
    if (lost) forget();
    renderSteering();
    if (by === null) again();
  },
  note: ({ text }) => toast(text),
  told({ text }) { // the answer to every "set"
    if (text) toast(text);
    answered();
  },
  error: ({ text }) => toast(text),
  pong: ({ at }) => pong(at),
  wait: ({ text }) => wait(text),
  loading: ({ text }) => loading(text),
  recording({ on, name, url, actions, frames, text }) { // `url`: of a page without a server
    state.recording = on;
    render();
    const own = ownRecording(on);
    if (on) return toast("Recording. Press C or the button to finish.");
    if (text) toast(text);
    if (!name) return text || toast("The recording has no frames; nothing was saved.");
    const line = document.createElement("span"), folder = `recording/${state.session}`;
    const video = url ? file(url, name) : file(`${folder}/${name}`, "biflow.mp4");
    line.append(`Recorded ${frames} frames: `, video);
    if (actions) line.append(" and ", file(`${folder}/${actions}`, "biflow.json"), ", its actions");
    toast(line, 12000);
    if (own) video.click(); // other viewers get only the link
  },
  ended: ({ text }) => end(text),
};

async function frame(data) {
  const first = !state.header;
  await draw(data);
  if (first) render(); // now there is something to play
}

listen();
listenToKeys();
listenToPad();
listenToGamepads();
acceptDrops();
$("retry").addEventListener("click", retry);
addEventListener("resize", fit);
addEventListener("fullscreenchange", fit);
setInterval(read, 500);
setInterval(ping, 2000);
fit();
start({ message: (message) => receivers[message.type]?.(message), frame });
