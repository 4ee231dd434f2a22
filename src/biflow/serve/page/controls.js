// The controls: what they show, and the changes that are sent to the server.

import { send } from "./connection.js";
import { toast } from "./messages.js";
import { caption } from "./pictures.js";
import { $, model, offers, state } from "./state.js";

const UNCAPPED = 61; // the right end of the frame-rate slider
const FIXED_STEPS = 4; // to begin with
const SOLVER_TITLES = { adams: "Adams (default)", reference: "Reference (paper)" };
const FORMAT_TITLES = { jpeg: "JPEG", webp: "WebP", png: "PNG (lossless)" };
const SELECTS = ["model", "model_b", "solver", "format"];

// ---- Changes: `wanted` has not been sent yet, `sent` has not been answered yet, `confirmed` is what the server says.

let wanted = {}, sent = {}, unanswered = 0, confirmed = null, flushing;

export function set(values) {
  Object.assign(wanted, values);
  if (!state.hello) return;
  Object.assign(state.controls, values);
  if (flushing) return;
  flush();
  flushing = setTimeout(() => { flushing = null; flush(); }, 60); // a slider changes more often than frames are solved
}

function flush() {
  if (!Object.keys(wanted).length) return;
  state.reaction = { at: performance.now(), version: null };
  sendControls(wanted);
  wanted = {};
  render();
}

export function sendControls(values) {
  Object.assign(sent, values);
  unanswered++;
  send({ type: "set", controls: values });
}

export function ask(message) { // for anything but controls; those set before it take effect first
  flush();
  send(message);
}

export function reset() { // another connection: nothing will be answered any more
  unanswered = 0;
  sent = {};
}

export function confirm(controls, version) { // the controls of the session have changed
  confirmed = controls;
  merge();
  if (state.reaction && state.reaction.version === null) state.reaction.version = version;
  render();
}

export function answered() { // every "set" gets one answer
  if (--unanswered > 0) return;
  sent = {};
  merge();
  render();
}

function merge() {
  state.controls = { ...confirmed, ...(unanswered > 0 ? sent : {}), ...wanted };
}

// ---- Elements -------------------------------------------------------------------------------------------------------

// A slider's position for a value of its control, the value as text, and the value for a position.
const same = (v) => v;
const sliders = {
  eps: [same, (v) => v.toFixed(2), same],
  eps_b: [same, (v) => v.toFixed(2), same],
  rtol: [Math.log10, (v) => v.toPrecision(2).replace(/\.0(?=e|$)/, ""), (v) => +(10 ** v).toPrecision(2)],
  steps: [(v) => v ?? FIXED_STEPS, (v) => String(v ?? FIXED_STEPS), same],
  in_between: [same, String, same],
  fps_cap: [
    (v) => v ?? UNCAPPED,
    (v) => (v ? `${+v.toFixed(1)} frames/s` : "no limit"),
    (v) => (v >= UNCAPPED ? null : v),
  ],
};
let held = null; // the slider that is being dragged; it stays where the pointer is

export const steps = (fixed) => set({ steps: fixed ? FIXED_STEPS : null });

export function listen() {
  for (const [name, [, , value]] of Object.entries(sliders)) {
    $(name).addEventListener("input", () => set({ [name]: value($(name).valueAsNumber) }));
    $(name).addEventListener("pointerdown", () => { held = name; });
  }
  addEventListener("pointerup", () => { held = null; if (state.controls) render(); });
  for (const name of SELECTS) $(name).addEventListener("change", () => set({ [name]: $(name).value }));
  $("auto").addEventListener("change", () => set({ auto: $("auto").checked }));
  $("adaptive").addEventListener("change", () => steps(false));
  $("fixed").addEventListener("change", () => steps(true));
  $("seed").addEventListener("change", () => {
    const seed = $("seed").valueAsNumber, [low, high] = state.hello?.ranges.seed ?? [0, 0];
    if (Number.isInteger(seed) && seed >= low && seed <= high) return set({ seed });
    toast(`A seed is a whole number from ${low} to ${high}.`);
    $("seed").value = state.controls?.seed ?? 0;
  });
}

export function furnish() { // options and ranges, as the server says
  const { formats, models, ranges, solvers } = state.hello;
  const fill = (id, rows) => $(id).replaceChildren(...rows.map(([value, text]) => new Option(text, value)));
  fill("model", models.map((one) => [one.name, one.title]));
  fill("model_b", models.map((one) => [one.name, one.title]));
  fill("solver", solvers.map((name) => [name, SOLVER_TITLES[name] ?? name]));
  fill("format", formats.map((name) => [name, FORMAT_TITLES[name] ?? name]));
  for (const name of ["eps", "eps_b", "rtol", "steps", "in_between"]) {
    [$(name).min, $(name).max] = ranges[name].map(sliders[name][0]);
  }
  [$("seed").min, $("seed").max] = ranges.seed;
  $("format").parentElement.hidden = formats.length < 2;
  for (const part of document.querySelectorAll("[data-offer]")) part.hidden = !offers(part.dataset.offer);
}

let firstsOf, ownOf; // the model and the pictures of viewers that are shown
function firsts() {
  const { now, own } = state.starts, { first } = model(state.controls.model);
  if (firstsOf !== first || ownOf !== own) {
    const ours = first.map((source, i) => [i, source, `First frame ${i + 1}`, `Start from this frame (${i + 1})`]);
    const yours = own.map(({ number, picture }) => [number, picture, "Your picture", "Start from this picture"]);
    $("firsts").replaceChildren(...[...ours, ...yours].map((row) => start(...row)));
    [firstsOf, ownOf] = [first, own];
  }
  for (const button of $("firsts").querySelectorAll("button")) button.classList.toggle("now", +button.value === now);
}

function start(number, source, alt, title) {
  const item = document.createElement("li"), button = document.createElement("button");
  button.append(Object.assign(new Image(), { src: source, alt }));
  Object.assign(button, { title, value: number, onclick: () => restart(number) });
  item.append(button);
  return item;
}

export const restart = (number) => ask({ type: "restart", ...(number === undefined ? {} : { first: number }) });

const press = (id, on) => { $(id).ariaPressed = on; };

export function render() {
  const { controls: c, hello } = state, { can } = model(c.model), fixed = c.steps !== null;
  document.body.classList.toggle("playing", c.playing);
  const nothing = state.starts.now === null; // to start from, so the picture is a grey one
  document.body.classList.toggle("nothing", nothing);
  for (const button of document.querySelectorAll(".bar button, #tour")) button.disabled = nothing || !state.header;
  $("play").lastChild.textContent = c.playing ? "Pause" : "Play";
  press("direction", c.direction === "backward");
  press("two", c.two_up);
  press("record", state.recording);
  $("record").lastChild.textContent = state.recording ? "Finish" : "Record";
  press("smooth", $("pictures").classList.contains("smooth"));
  for (const name of SELECTS) $(name).value = c[name];
  for (const [name, [position, text]] of Object.entries(sliders)) {
    if (held !== name) $(name).value = position(c[name]);
    $(`${name}-out`).textContent = $(name).ariaValueText = text(c[name]);
  }
  if (document.activeElement !== $("seed")) $("seed").value = c.seed;
  $(fixed ? "fixed" : "adaptive").checked = true;
  $("fixed").disabled = hello.no_steps.includes(c.solver);
  $("adaptive").disabled = hello.need_steps.includes(c.solver);
  $("rtol-row").hidden = fixed;
  $("steps-row").hidden = !fixed;
  $("second-controls").hidden = !c.two_up;
  $("model_b").parentElement.hidden = hello.models.length < 2;
  $("tour").hidden = !can.eps;
  $("eps").disabled = $("auto").disabled = !can.eps;
  $("auto").checked = c.auto;
  $("eps_b").disabled = !model(c.model_b).can.eps;
  $("direction").disabled ||= !can.backward;
  $("in_between").disabled = !can.in_between;
  firsts();
  caption();
}
