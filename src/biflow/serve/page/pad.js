// What the page shows of steering, as the model in use needs it: a pad, and its keys in lists and hints.

import { fit } from "./pictures.js";
import { $, state } from "./state.js";
import { ARROWS, actions, arrowOf, hold, letters, named, release, releaseAll, sayWho } from "./steering.js";

const coarse = matchMedia("(pointer: coarse)").matches;
const DEAD = 0.2; // of the pad's half width, around its middle
let shown = coarse, built; // the actions that the page is furnished for

export function renderSteering() {
  const wanted = actions();
  if (wanted !== built) {
    built = wanted;
    releaseAll();
    document.body.classList.toggle("steerable", Boolean(wanted));
    if (wanted) furnishPad();
    listKeys();
    hint();
  }
  $("steering").hidden = !wanted;
  $("pad").hidden = !shown;
  $("pad-button").ariaPressed = shown;
  if (wanted) sayWho(shown && coarse);
  fit();
}

function element(tag, settings, ...children) {
  const node = Object.assign(document.createElement(tag), settings);
  node.append(...children);
  return node;
}

const key = (text) => element("kbd", { textContent: text });

function padButton(name, sign) {
  const button = element("button", { type: "button", tabIndex: -1 }, sign, element("span", { textContent: name }));
  button.dataset.action = name;
  return button;
}

function furnishPad() {
  const directions = Object.keys(ARROWS).filter(named).map((arrow) => {
    const button = padButton(named(arrow), element("b", { textContent: ARROWS[arrow].sign }));
    button.classList.add(arrow);
    return button;
  });
  const others = Object.entries(letters()).map(([name, letter]) => padButton(name, key(letter.toUpperCase())));
  $("cross").replaceChildren(...directions);
  $("cross").hidden = !directions.length;
  $("cross").classList.toggle("flat", !named("up") && !named("down"));
  $("others").replaceChildren(...others);
  $("others").hidden = !others.length;
}

function listKeys() {
  $("keys").querySelectorAll(".action").forEach((row) => row.remove());
  if (!built) return;
  const onLetters = letters();
  const rows = Object.keys(built.keys).map((name) => {
    const arrow = ARROWS[arrowOf(name)];
    const letter = arrow?.keys[1] ?? onLetters[name] ?? "–"; // there may be more actions than letters
    const keys = [...(arrow ? [key(arrow.sign), " "] : []), key(letter.toUpperCase())];
    return element("div", { className: "action" }, element("dt", {}, ...keys), element("dd", { textContent: name }));
  });
  $("keys").querySelector("dl").prepend(...rows);
}

function hint() { // what buttons say about their keys
  $("direction").title = `Run time backward (${built ? "B" : "B, or ← and →"})`;
  for (const [id, letter] of [["snapshot", "S"], ["webcam", "W"]]) {
    const now = built ? `Shift+${letter}` : letter;
    $(id).title = $(id).title.replace(/\([^)]*\)/, `(${now})`);
    $(id).setAttribute("aria-keyshortcuts", now);
  }
}

function under(event) { // the directions under a finger; two in a corner
  const { left, top, width, height } = $("cross").getBoundingClientRect();
  const x = (2 * (event.clientX - left)) / width - 1, y = (2 * (event.clientY - top)) / height - 1, strengths = {};
  const far = Math.max(Math.abs(x), $("cross").classList.contains("flat") ? 0 : Math.abs(y));
  for (const [arrow, way] of [["left", -x], ["right", x], ["up", -y], ["down", y]]) {
    if (named(arrow) && way > DEAD && way > far / 2) strengths[named(arrow)] = 1;
  }
  return strengths;
}

function follow(element, strengths) { // hold what is under a pointer until it is lifted
  const source = (event) => `pointer ${event.pointerId}`;
  element.addEventListener("pointerdown", (event) => {
    const found = state.hello && strengths(event);
    if (!found || event.button) return;
    event.preventDefault();
    element.setPointerCapture(event.pointerId);
    hold(source(event), found);
  });
  element.addEventListener("pointermove", (event) => {
    if (element === $("cross") && element.hasPointerCapture(event.pointerId)) hold(source(event), strengths(event));
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    element.addEventListener(end, (event) => release(source(event)));
  }
}

export function listenToPad() {
  follow($("cross"), under);
  follow($("others"), (event) => {
    const name = event.target.closest("[data-action]")?.dataset.action;
    return name && { [name]: 1 };
  });
  $("pad").addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
  $("pad-button").addEventListener("click", () => { shown = !shown; renderSteering(); });
}
