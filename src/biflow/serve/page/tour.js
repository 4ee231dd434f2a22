// Twenty seconds that show what correction is for: two streams, one without, until it dissolves; then it gets it back.

import { restart, set } from "./controls.js";
import { $, state } from "./state.js";

// Each act lasts so long, and on a slow machine for as many frames as there is something to see.
export const acts = [
  { seconds: 3, frames: 1, text: "Two streams from the same picture. Every frame is made from the ones before it." },
  { seconds: 9, frames: 40, text: "On the right, correction is off. Small errors are inherited, and add up.", eps_b: () => 0 },
  { seconds: 8, frames: 30, text: "Correction is on again, and finds a picture in what is left.", eps_b: () => state.controls.eps },
];
let before = null, timer; // the controls before it

export function tour() {
  if (before) return finish();
  const { auto, eps, eps_b, model, model_b, two_up, playing } = state.controls;
  before = { auto, eps, eps_b, model_b, two_up, playing };
  const own = state.hello.models.find((one) => one.name === model).eps;
  set({ two_up: true, model_b: model, auto: false, eps: own, eps_b: own, playing: true });
  restart();
  $("pictures").scrollIntoView({ block: "nearest" });
  $("tour").ariaPressed = true;
  play(0);
}

function play(number) {
  const act = acts[number];
  if (!act) return finish();
  if (act.eps_b) set({ eps_b: act.eps_b() });
  $("story").hidden = false;
  $("story").textContent = act.text;
  const end = performance.now() + 1000 * act.seconds, first = state.header.id, last = first + act.frames;
  timer = setInterval(() => {
    if (!state.header) return;
    if (state.header.id < first) return finish(); // another session
    if (performance.now() < end || state.header.id < last) return;
    clearInterval(timer);
    play(number + 1);
  }, 100);
}

function finish() {
  clearInterval(timer);
  if (state.controls.two_up) set(before); // unless a viewer has ended it by hand
  before = null;
  $("story").hidden = true;
  $("tour").ariaPressed = false;
}
