// A gamepad steers: its left stick or its d-pad goes where the arrow keys do, its first buttons do the other actions.

import { ARROWS, actions, hold, letters, named, release } from "./steering.js";

const DEAD = 0.15; // a stick is never exactly in the middle
const STEP = 0.05; // so that a trembling hand is not a new action all the time
const PAUSE = 33; // milliseconds between actions; the server takes 40 messages a second
const D_PAD = { up: 12, down: 13, left: 14, right: 15 };
let polling = false, last = 0;

const far = (value) => Math.round(Math.max(0, value - DEAD) / (1 - DEAD) / STEP) * STEP;
const connected = () => navigator.getGamepads().find((pad) => pad?.connected && pad.mapping === "standard");

function strengths({ axes, buttons }) {
  const [x, y] = axes, ways = { up: far(-y), down: far(y), left: far(-x), right: far(x) }, found = {};
  for (const arrow of Object.keys(ARROWS).filter(named)) {
    const strength = buttons[D_PAD[arrow]]?.pressed ? 1 : Math.min(1, ways[arrow]);
    if (strength) found[named(arrow)] = strength;
  }
  Object.keys(letters()).forEach((name, i) => {
    if (i < D_PAD.up && buttons[i]?.value > DEAD) found[name] = Math.min(1, far(buttons[i].value));
  });
  return found;
}

function poll(now) {
  const pad = connected();
  polling = Boolean(pad);
  if (!pad) return release("gamepad");
  requestAnimationFrame(poll);
  if (!actions() || now - last < PAUSE) return;
  last = now;
  const found = strengths(pad);
  if (Object.keys(found).length) hold("gamepad", found);
  else release("gamepad");
}

export function listenToGamepads() {
  addEventListener("gamepadconnected", () => {
    if (!polling) requestAnimationFrame(poll);
    polling = true;
  });
}
