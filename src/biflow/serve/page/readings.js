// The readings: frame rates, latency, and network evaluations per frame.

import { $, state } from "./state.js";

const SPARK = 60; // bars
const WINDOW = 3000; // milliseconds over which rates are averaged
const drawn = [], arrived = [], evaluations = [];
let roundTrip = 0;

export function note({ id, index, nfe, time, version }) { // the frame that has just been drawn
  const now = performance.now();
  drawn.push(now);
  arrived.push([now, id]);
  if (nfe[0]) evaluations.push(nfe[0]);
  while (evaluations.length > SPARK) evaluations.shift();
  if (state.reaction?.version != null && version >= state.reaction.version) {
    $("latency").dataset.reaction = Math.round(now - state.reaction.at);
    state.reaction = null;
  }
  $("nfe").textContent = nfe.join(" | ");
  $("index").textContent = index;
  $("time").textContent = `t = ${+time.toFixed(2)}`;
}

export const pong = (sent) => { roundTrip = performance.now() - sent; };

export function read() {
  const { hello, header } = state, now = performance.now();
  while (drawn.length > 2 && now - drawn[0] > WINDOW) drawn.shift();
  while (arrived.length > 2 && now - arrived[0][0] > WINDOW) arrived.shift();
  const rate = (count, since) => (count > 0 ? (1000 * count) / (now - since) : 0).toFixed(1);
  $("shown").textContent = hello ? rate(drawn.length - 1, drawn[0]) : "–";
  const solved = arrived.length ? arrived.at(-1)[1] - arrived[0][1] : 0;
  $("solved").textContent = hello ? rate(solved, arrived[0]?.[0]) : "–";
  $("latency").textContent = header?.solve_ms ? Math.round(header.solve_ms + header.encode_ms + roundTrip / 2) : "–";
  spark();
}

function spark() {
  const canvas = $("spark"), pixel = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return;
  Object.assign(canvas, { width: width * pixel, height: height * pixel });
  const pen = canvas.getContext("2d"), most = Math.max(4, ...evaluations), wide = width / SPARK;
  pen.scale(pixel, pixel);
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  evaluations.forEach((count, i) => {
    const tall = (count / most) * (height - 2);
    pen.globalAlpha = i === evaluations.length - 1 ? 1 : 0.55;
    pen.fillRect(width - (evaluations.length - i) * wide, height - tall, Math.max(1, wide - 1), tall);
  });
  const recent = evaluations.slice(-10).join(", ");
  canvas.ariaLabel = `Evaluations of the last frames: ${recent}; highest recent value ${Math.max(0, ...evaluations)}`;
}
