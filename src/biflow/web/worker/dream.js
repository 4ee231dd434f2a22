// The frames of a stream: what biflow.serve.dream is to the server. The model is what model.json says.

import { toFloat, toPixels } from "./frames.js";
import { methods } from "./methods.js";
import { Moments, NO_PLAN } from "./moments.js";
import { Generator, frameSeed } from "./random.js";
import { solve } from "./solver.js";
import { held } from "./steering.js";

const PAST_FRAMES = 480, PAST_BYTES = 16 * 2 ** 20;

export class Stale extends Error {} // the frame being solved is no longer wanted

export async function nextFrame(model, network, x, { past = [], action = null, eps, contextEps, backward, generator, ...how }) {
  // The frame after x: one turn of the loop in biflow.rollout. `past` are the frames before x, the newest first.
  const method = methods[model.method];
  const pixels = () => Math.floor(generator.uniform() * 2 * model.spin + 0.5) - model.spin; // as biflow.spinning draws them
  const aside = model.spin ? [pixels(), pixels()] : [0, 0];
  const here = moved(x, model.size, aside);
  const start = method.start(here, eps, () => generator.normal(x.length));
  const before = past.slice(0, model.context).map((frame) => moved(frame, model.size, aside));
  const conditions = conditionsOf(model, before, action, contextEps ?? model.context_eps, generator);
  let nfe = 0;
  const ask = (query) => {
    nfe++;
    return network({ ...query, ...conditions });
  };
  const solver = backward ? { ...how, ...method.backward?.(how) } : how;
  const jump = solver.solver === "euler" ? 1 / solver.steps : 0;
  const field = method.field(ask, { eps, backward, frame: here, jump });
  const next = await solve(field, start, backward ? 1 : 0, backward ? 0 : 1, solver, model.tableaus);
  const [low, high] = model.limits;
  const shown = moved(next, model.size, aside.map((pixels) => -pixels), x);
  return { x: shown.map((value) => Math.min(high, Math.max(low, value))), nfe };
}

function moved(x, [height, width], [down, right], border = null) { // as biflow.spinning moves it
  if (!down && !right) return x;
  const within = (i, side) => Math.min(Math.max(i, 0), side - 1);
  return x.map((_, i) => {
    const at = i % (height * width), row = Math.floor(at / width) - down, column = at % width - right;
    const near = within(row, height) * width + within(column, width);
    return border && near !== row * width + column ? border[i] : x[i - at + near];
  });
}

function conditionsOf(model, past, action, level, generator) { // as biflow.memory gives them
  const found = {};
  if (model.context) {
    const area = 3 * model.size[0] * model.size[1];
    found.past = new Float32Array(model.context * area);
    found.past_noise = new Float32Array(model.context).fill(-1).fill(level, 0, past.length);
    past.forEach((frame, i) => found.past.set(frame, i * area));
    if (level && past.length) generator.normal(past.length * area).forEach((n, i) => { found.past[i] += level * n; });
  }
  if (model.actions) found.action = Float32Array.from([action ? 1 : 0, ...scaled(model.actions, action)]);
  return found;
}

function scaled({ columns, neutral, ranges }, action) { // in the unit of the network; zeros where no action is known
  return columns.map((name, i) => {
    const [low, high] = ranges[i], unit = Math.max(high - neutral[i], neutral[i] - low);
    return action ? ((action[name] ?? neutral[i]) - neutral[i]) / unit : 0;
  });
}

export class Dream {
  constructor(model, network) {
    Object.assign(this, { model, network });
    this.past = []; // frames as they were on screen, the one that is there last
    this.moments = model.moments ? new Moments(model.moments) : null; // of the clips
    this.ids = 0;
    this.frames = []; // of each stream, the one on screen before rounding to pixels
    this.streams = [];
    this.settings = null; // that the streams run under; null: they cannot continue
  }

  get now() { return this.past.at(-1); }

  begin(pictures, controls) { // from a picture and those before it, the newest last
    const before = pictures.slice(0, -1).reverse().map((one) => [one]);
    return this.jump(0, 0, Array(controls.two_up ? 2 : 1).fill(pictures.at(-1)), before);
  }

  goBack(id) {
    const moment = this.past.find((one) => one.id === id);
    return moment && this.jump(moment.index, moment.time, moment.pictures, moment.before, moment.plan);
  }

  jump(index, time, pictures, before, plan = NO_PLAN) {
    const solved = { nfe: pictures.map(() => 0), seconds: 0 };
    const moment = { id: ++this.ids, index, time, pictures, before: this.newest(before), plan, ...solved };
    this.frames = pictures.map(toFloat);
    this.settings = null;
    return this.keep(moment);
  }

  async advance(controls, wanted = null, unwanted = () => false) { // without a wanted action, the autopilot has one
    const begun = performance.now(), backward = controls.direction === "backward";
    const [action, plan] = wanted ? [wanted, NO_PLAN] : this.autopilot(backward);
    const network = async (query) => {
      if (await unwanted()) throw new Stale();
      return this.network(query);
    };
    const settings = streamSettings(controls);
    if (settings !== this.settings) this.start(controls, backward);
    this.settings = null; // until all streams have their frame
    const solved = [];
    for (const { x, past, eps } of this.streams) {
      const generator = new Generator(frameSeed(controls.seed, this.now.index));
      const { solver, steps } = controls;
      solved.push(await nextFrame(this.model, network, x, { past, action, eps, backward, generator, solver, steps }));
    }
    this.streams.forEach((stream, i) => {
      if (!backward) stream.past = [stream.x, ...stream.past].slice(0, this.model.context);
      stream.x = this.frames[i] = solved[i].x;
    });
    this.frames.length = solved.length;
    this.settings = settings;
    const { index, time, pictures, before } = this.now;
    return this.keep({
      id: ++this.ids,
      index: index + 1,
      time: time + (backward ? -1 : 1),
      pictures: this.frames.map(toPixels),
      nfe: solved.map(({ nfe }) => nfe),
      seconds: (performance.now() - begun) / 1000,
      before: backward ? before.slice(1) : this.newest([pictures, ...before]),
      action,
      plan,
    });
  }

  autopilot(backward) { // what it does after the frame on screen, and then
    if (!this.moments || backward) return [null, NO_PLAN];
    const [row, plan] = this.moments.after(this.now.pictures[0], this.model.size, this.now.plan);
    return [held(this.model.actions, row), plan];
  }

  start({ eps, eps_b, two_up }, backward) { // streams from the frame on screen; a second one begins where the first is
    this.streams = [eps, eps_b].slice(0, two_up ? 2 : 1).map((level, i) => {
      const place = i < this.frames.length ? i : 0;
      const past = backward ? [] : this.now.before.map((pictures) => toFloat(pictures[place] ?? pictures[0]));
      return { x: this.frames[place], past, eps: level };
    });
  }

  newest(before) { return before.slice(0, this.model.context); }

  keep(moment) {
    const bytes = moment.pictures.reduce((sum, picture) => sum + picture.length, 0);
    while (this.past.length >= Math.max(1, Math.min(PAST_FRAMES, Math.floor(PAST_BYTES / bytes)))) this.past.shift();
    this.past.push(moment);
    return moment;
  }
}

export const streamSettings = (c) => JSON.stringify([c.eps, c.two_up ? c.eps_b : null, c.direction, c.solver, c.steps]);
