// Twenty seconds that show what correction is for: two streams, one without, until it dissolves; then it gets it back.

import { restart, set } from "./controls.js";
import { $, state } from "./state.js";

export const acts = [
  { seconds: 3, text: "Two streams from the same picture. Every frame is made from the one before." },
  { seconds: 9, text: "On the right, correction is off. Small errors are inherited, and add up.", eps_b: () => 0 },
  { seconds: 8, text: "Correction is on again, and finds a picture in what is left.", eps_b: () => state.controls.eps },
];
let before = null, timer; // the controls before it

export function tour() {
  if (before) return finish();
  const { eps, eps_b, model, model_b, two_up, playing } = state.controls;
  before = { eps, eps_b, model_b, two_up, playing };
  const own = state.hello.models.find((one) => one.name === model).eps;
  set({ two_up: true, model_b: model, eps: own, eps_b: own, playing: true });
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
  timer = setTimeout(play, 1000 * act.seconds, number + 1);
}

function finish() {
  clearTimeout(timer);
  if (state.controls.two_up) set(before); // unless a viewer has ended it by hand
  before = null;
  $("story").hidden = true;
  $("tour").ariaPressed = false;
}
