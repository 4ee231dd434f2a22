// The readings: frame rates, latency, network evaluations per frame, and drift.

import { $, state } from "./state.js";

const BARS = 60; // of a chart
const DRIFT_LASTS = 32; // frames; it is measured at every sixteenth
const WINDOW = 3000; // milliseconds over which rates are averaged
const drawn = [], arrived = [], evaluations = [], drifts = [];
let roundTrip = 0, sinceDrift = 0;

export function note({ drift, id, index, nfe, time, version }) { // the frame that has just been drawn
  const now = performance.now();
  drawn.push(now);
  arrived.push([now, id]);
  if (nfe[0]) evaluations.push(nfe[0]);
  else drifts.length = 0; // another start, or back to an earlier frame
  while (evaluations.length > BARS) evaluations.shift();
  noteDrift(drift);
  if (state.reaction?.version != null && version >= state.reaction.version) {
    $("latency").dataset.reaction = Math.round(now - state.reaction.at);
    state.reaction = null;
  }
  $("nfe").textContent = nfe.join(" | ");
  $("index").textContent = index;
  $("time").textContent = `t = ${+time.toFixed(2)}`;
}

function noteDrift(drift) { // not of all frames, and not of all models
  sinceDrift = drift ? 0 : sinceDrift + 1;
  if (drift) drifts.push(drift[0]);
  else if (sinceDrift > DRIFT_LASTS) drifts.length = 0;
  while (drifts.length > BARS) drifts.shift();
  $("drifts").hidden = !drifts.length;
  if (drift) $("drift").textContent = drift.map((times) => times.toFixed(1)).join(" | ");
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
  chart($("spark"), evaluations, 4);
  chart($("drift-chart"), drifts, 2);
  const recent = evaluations.slice(-10).join(", "), highest = Math.max(0, ...evaluations);
  $("spark").ariaLabel = `Evaluations of the last frames: ${recent}; highest recent value ${highest}`;
  const seen = drifts.slice(-10).map((times) => times.toFixed(1)).join(", ");
  $("drift-chart").ariaLabel = `Drift, at every sixteenth frame: ${seen}`;
}

function chart(canvas, values, least) { // bars, of which one of the height `least` fills the canvas unless others are higher
  const pixel = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return;
  Object.assign(canvas, { width: width * pixel, height: height * pixel });
  const pen = canvas.getContext("2d"), most = Math.max(least, ...values), wide = width / BARS;
  pen.scale(pixel, pixel);
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  values.forEach((value, i) => {
    const tall = (value / most) * (height - 2);
    pen.globalAlpha = i === values.length - 1 ? 1 : 0.55;
    pen.fillRect(width - (values.length - i) * wide, height - tall, Math.max(1, wide - 1), tall);
  });
}
