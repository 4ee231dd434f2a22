// Buttons and keys.

import { ask, render, restart, set, steps } from "./controls.js";
import { camera, lastSeconds, snapshot } from "./images.js";
import { speak, toast } from "./messages.js";
import { frameBefore } from "./pictures.js";
import { $, model, offers, state } from "./state.js";
import { WASD, actionOn, actions as steered, hold, release, releaseAll, reserve } from "./steering.js";
import { tour } from "./tour.js";

const cycle = (list, value) => list[(list.indexOf(value) + 1) % list.length];

function nudge(name, by) {
  const slider = $(name), value = Math.min(+slider.max, Math.max(+slider.min, +slider.value + by * slider.step));
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
  speak(`${$(name).labels[0].firstElementChild.textContent.replace(/[[\]]/g, "").trim()} ${$(`${name}-out`).textContent}`);
}

function finer(by) {
  if (state.controls.steps === null) nudge("rtol", -by);
  else nudge("steps", by);
}

function turn(direction) {
  if ($("direction").disabled) return;
  set({ direction });
  speak(direction);
}

function goTo(id) {
  if (id) ask({ type: "back", frame: +id });
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (document.fullscreenEnabled) $("pictures").requestFullscreen();
}

async function share() {
  try {
    await navigator.clipboard.writeText(location.href);
    toast("Link copied. Anyone who opens it can watch and control this session.");
  } catch {
    toast(location.href, 15000);
  }
}

let saveMine = false; // this viewer has asked for the recording, so it is saved at once
export function ownRecording(on) { // whether the recording that has started or ended is this viewer's
  const mine = saveMine;
  saveMine = on && mine;
  return mine;
}

const actions = {
  play() { set({ playing: !state.controls.playing }); speak(state.controls.playing ? "playing" : "paused"); },
  step: () => ask({ type: "step" }),
  direction: () => turn(state.controls.direction === "forward" ? "backward" : "forward"),
  restart: () => restart(),
  two: () => set({ two_up: !state.controls.two_up }),
  record() {
    if (!offers("record")) return;
    saveMine = true;
    ask({ type: "record", on: !state.recording });
  },
  snapshot,
  last: lastSeconds,
  full: fullScreen,
  tour,
  reseed() { set({ seed: crypto.getRandomValues(new Uint32Array(1))[0] }); speak(`seed ${state.controls.seed}`); },
  smooth() { $("pictures").classList.toggle("smooth"); render(); },
  upload: () => $("file").click(),
  webcam: camera,
  help: () => $("keys").showModal(),
  share,
};

const keys = {
  " ": actions.play, ".": actions.step, b: actions.direction, r: actions.restart, t: actions.two, c: actions.record,
  s: snapshot, l: lastSeconds, f: fullScreen, n: actions.reseed, p: actions.smooth, u: actions.upload, w: camera, "?": actions.help,
  ",": () => { set({ playing: false }); goTo(frameBefore()); },
  ArrowLeft: () => turn("backward"), ArrowRight: () => turn("forward"),
  "[": () => nudge("eps", -1), "]": () => nudge("eps", 1), "{": () => nudge("eps_b", -1), "}": () => nudge("eps_b", 1),
  "<": () => finer(-1), ">": () => finer(1),
  "-": () => nudge("fps_cap", -1), "+": () => nudge("fps_cap", 1), "=": () => nudge("fps_cap", 1),
  i() {
    set({ in_between: (state.controls.in_between % $("in_between").max) + 1 });
    speak(`${state.controls.in_between} frames per step`);
  },
  v() {
    set({ solver: cycle(state.hello.solvers, state.controls.solver) });
    speak(`solver ${state.controls.solver}`);
  },
  a() {
    steps(state.controls.steps === null);
    speak(state.controls.steps === null ? "adaptive" : "fixed steps");
  },
  m() {
    set({ model: cycle(state.hello.models.map((one) => one.name), state.controls.model) });
    speak(`model ${state.controls.model}`);
  },
};

function pressed(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = target.matches("select, input[type=number]");
  const own = target.matches("input") && key.startsWith("Arrow");
  const pressing = key === " " && target.matches("button, input[type=radio], a");
  if (typing || own || pressing || (!state.hello && key !== "?")) return;
  const name = key.length === 1 ? key.toLowerCase() : key;
  const steers = steered() && (actionOn(name) || name.startsWith("Arrow") || WASD.includes(name));
  if (steers && !event.shiftKey) {
    const action = actionOn(name);
    if (!action) return;
    if (!event.repeat) hold(event.code, { [action]: 1 });
  } else if (/^[1-9]$/.test(name)) {
    if (+name <= model(state.controls.model).first.length) restart(+name - 1);
  } else if (keys[name]) {
    keys[name]();
  } else {
    return;
  }
  event.preventDefault();
}

// A slider or a list that was used with the mouse keeps the focus, and would take the arrow keys that are to steer.
function leave({ target }) {
  if (steered() && target.matches("select, input") && !target.matches(":focus-visible")) target.blur();
}

export function listenToKeys() {
  reserve(Object.keys(keys).filter((key) => /^[a-z]$/.test(key)));
  for (const [id, action] of Object.entries(actions)) {
    $(id).addEventListener("click", () => (state.hello || id === "help") && action());
  }
  $("strip").addEventListener("click", (event) => goTo(event.target.closest("button")?.dataset.frame));
  $("full").hidden = !document.fullscreenEnabled;
  addEventListener("keydown", pressed);
  // While Cmd is down, macOS says of no other key that it was released.
  addEventListener("keyup", (event) => (event.key === "Meta" ? releaseAll() : release(event.code)));
  addEventListener("blur", releaseAll);
  addEventListener("change", leave);
}
