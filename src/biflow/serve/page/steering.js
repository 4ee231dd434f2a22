// Steering: the actions that keys, the pad and a gamepad hold, and who steers.

import { send } from "./connection.js";
import { $, model, state } from "./state.js";

export const ARROWS = {
  up: { keys: ["ArrowUp", "w"], sign: "↑" },
  left: { keys: ["ArrowLeft", "a"], sign: "←" },
  down: { keys: ["ArrowDown", "s"], sign: "↓" },
  right: { keys: ["ArrowRight", "d"], sign: "→" },
};
export const WASD = "wasd";
const reserved = new Set(WASD); // letters that do something else
const held = new Map(); // what holds actions (a key, a pointer, a gamepad), and the strength of each from 0 to 1
let sent = "{}";

export const reserve = (letters) => letters.forEach((letter) => reserved.add(letter));
export const actions = () => (state.controls ? model(state.controls.model).actions : null); // of the model in use
export const arrowOf = (name) => actions().arrows[name];
export const named = (arrow) => Object.keys(actions().arrows).find((name) => arrowOf(name) === arrow);
export const mine = () => state.steering.by !== null && state.steering.by === state.hello.viewer;

export function letters() { // of the actions that are on no arrow: the first free one of the name, or of the alphabet
  const taken = new Set(reserved), found = {};
  for (const name of Object.keys(actions().keys).filter((one) => !arrowOf(one))) {
    const wanted = [...name.toLowerCase(), ..."abcdefghijklmnopqrstuvwxyz"];
    const letter = wanted.find((one) => /[a-z]/.test(one) && !taken.has(one));
    if (letter) taken.add(found[name] = letter);
  }
  return found;
}

export function actionOn(key) { // the name of the action on a key
  const arrow = Object.keys(ARROWS).find((one) => ARROWS[one].keys.includes(key));
  return arrow ? named(arrow) : Object.entries(letters()).find(([, letter]) => letter === key)?.[0];
}

// ---- What is held ---------------------------------------------------------------------------------------------------

export function hold(source, strengths) {
  held.set(source, strengths);
  act();
}

export function release(source) {
  if (held.delete(source)) act();
}

export function releaseAll() {
  held.clear();
  act();
}

export function forget() { // the server holds nothing any more
  sent = "{}";
}

export function again() { // the controls are free: what is held takes them, also if it was refused before
  forget();
  act();
}

function strongest() {
  const names = {};
  for (const strengths of held.values()) {
    for (const [name, strength] of Object.entries(strengths)) names[name] = Math.max(names[name] ?? 0, strength);
  }
  return names;
}

function act() { // tells the server at once, but only what has changed
  if (!state.hello || !actions()) return;
  const { columns, keys, neutral, ranges } = actions(), names = strongest(), action = {};
  columns.forEach((column, i) => {
    let value = neutral[i];
    for (const [name, strength] of Object.entries(names)) {
      if (column in keys[name]) value += strength * (keys[name][column] - neutral[i]);
    }
    value = +Math.min(ranges[i][1], Math.max(ranges[i][0], value)).toFixed(3);
    if (value !== +neutral[i].toFixed(3)) action[column] = value;
  });
  const text = JSON.stringify(action);
  if (text !== sent) send({ type: "act", action });
  sent = text;
  for (const button of document.querySelectorAll("#pad [data-action]")) {
    button.classList.toggle("held", button.dataset.action in names);
  }
}

// ---- Who steers -----------------------------------------------------------------------------------------------------

export function sayWho(touch) {
  const who = mine() ? "you" : state.steering.by === null ? "nobody" : "other";
  $("steering").dataset.who = who;
  $("steerer").textContent = {
    you: "You steer.",
    other: "Another viewer steers.",
    nobody: `Autopilot. ${touch ? "Touch the pad" : `Press ${someKeys()}`} to steer.`,
  }[who];
}

function someKeys() {
  const signs = Object.keys(ARROWS).filter(named).map((arrow) => ARROWS[arrow].sign);
  const others = Object.values(letters()).slice(0, 3).map((letter) => letter.toUpperCase());
  const all = [...(signs.length > 2 ? ["an arrow key"] : signs), ...others];
  return all.length > 1 ? `${all.slice(0, -1).join(", ")} or ${all.at(-1)}` : all[0];
}
