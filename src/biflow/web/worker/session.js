// A session with one viewer: what biflow.serve.session and .connection are to the server. It has the server's messages.

import { Dream, Stale, streamSettings } from "./dream.js";
import { bmp, pack } from "./frames.js";
import { changed } from "./controls.js";
import { Steering } from "./steering.js";

const CREDITS = 2; // frames on their way to the page
const STEPS = 8; // single frames that may wait
const OWN = 4; // pictures of the viewer that are kept

const now = () => performance.now() / 1000;

// `hello` is the first message without what changes; `first` are frames to start from, each a list of pixels with those
// before it; `network` evaluates a query; `tell` sends a JSON message and `show` a frame; `breathe` lets messages in.
export class Session {
  constructor({ hello, model, first, network, tell, show, breathe }) {
    Object.assign(this, { hello, model, first, tell, show, breathe });
    this.dream = new Dream(model, network);
    this.controls = hello.controls;
    this.version = 0;
    this.steering = new Steering(model.actions, tell);
    this.start = null; // the number of what the stream started from: first frames from 0 on, own pictures from -1 down
    this.own = new Map();
    this.jobs = [];
    this.steps = this.due = 0;
    this.credits = CREDITS;
    this.newest = null;
    this.hurry = this.gaveUp = false;
    tell({ ...hello, starts: { type: "starts", now: first.length ? 0 : null, own: [] } });
    const area = 3 * model.size[0] * model.size[1];
    if (first.length) this.restart();
    else this.jump(this.dream.begin([new Uint8Array(area).fill(128)], this.controls)); // something to see
  }

  // ---- Messages of the page

  async receive(message) {
    const act = this.receivers[message.type];
    if (act) await act(message);
    this.wake?.();
  }

  receivers = {
    ack: () => {
      this.credits = Math.min(CREDITS, this.credits + 1);
      this.flush();
    },
    set: ({ controls }) => this.tell({ type: "told", text: this.change(controls).join(" ") }),
    act: ({ action }) => this.steering.act(action),
    step: () => {
      this.change({ playing: false });
      this.jobs.push(() => { [this.steps, this.due] = [Math.min(this.steps + 1, STEPS), 0]; });
    },
    restart: ({ first }) => this.restart(first),
    back: ({ frame }) => this.job(() => {
      const moment = this.dream.goBack(frame);
      if (moment) this.jump(moment);
      else this.error("That frame is no longer kept.");
    }),
    ping: ({ at }) => this.tell({ type: "pong", at }),
  };

  change(wanted) {
    const { controls, notes } = changed(this.controls, wanted, this.hello);
    if (controls.fps_cap !== this.controls.fps_cap) this.due = 0;
    this.hurry ||= this.controls.playing && !controls.playing;
    this.controls = controls;
    this.tell({ type: "controls", version: ++this.version, controls });
    return notes;
  }

  restart(number = this.start ?? 0) {
    const pictures = number < 0 ? this.own.get(number) : this.first[number];
    if (!pictures) return this.error(number < 0 ? "That picture is no longer kept." : `There is no first frame ${number + 1}.`);
    this.start = number;
    this.tell({ type: "starts", now: number });
    this.job(() => this.jump(this.dream.begin(pictures, this.controls)));
  }

  restartFrom(pixels, url) { // a picture of the viewer, and its address
    const number = Math.min(0, ...this.own.keys()) - 1;
    this.own.set(number, [pixels]);
    this.urls = { ...this.urls, [number]: url };
    while (this.own.size > OWN) {
      const oldest = Math.max(...this.own.keys());
      this.own.delete(oldest);
      URL.revokeObjectURL(this.urls[oldest]);
      delete this.urls[oldest];
    }
    const own = [...this.own.keys()].map((one) => ({ number: one, picture: this.urls[one] }));
    this.tell({ type: "starts", now: number, own });
    this.restart(number);
    this.wake?.();
  }

  error(text) { this.tell({ type: "error", text }); }

  job(job) { // before the next frame; the one being solved is given up
    this.jobs.push(job);
    this.hurry = true;
  }

  // ---- Frames

  async run() {
    for (;;) await this.turn();
  }

  async turn() { // does what waits, or solves a frame, or waits for something to do
    this.steering.rest();
    const wanted = this.start !== null && (this.controls.playing || this.steps) && !this.newest;
    const wait = wanted ? this.due - now() : Infinity;
    if (this.jobs.length) {
      this.hurry = false;
      while (this.jobs.length) this.jobs.shift()();
    } else if (wait <= 0) {
      await this.advance();
    } else {
      await this.sleep(Math.min(wait, this.steering.deadline - now()));
    }
  }

  sleep(seconds) {
    return new Promise((done) => {
      this.wake = done;
      if (seconds < Infinity) setTimeout(done, 1000 * Math.max(0, seconds));
    });
  }

  async advance() {
    const { controls, version } = this, held = this.steering.pressed, begun = now();
    this.hurry = false;
    const unwanted = async () => {
      await this.breathe();
      return this.unwanted(controls, held);
    };
    let moment;
    try {
      moment = await this.dream.advance(controls, held, unwanted);
    } catch (error) {
      if (error instanceof Stale) { this.gaveUp = true; return; }
      this.steps = 0;
      this.error(`Frame ${this.dream.now.index + 1} could not be solved: ${error.message}`);
      this.change({ playing: false });
      return;
    }
    this.gaveUp = false;
    this.steps = Math.max(0, this.steps - 1);
    this.put(moment, version);
    // Counted from when it was due, so that the rate holds; but a pause is never made up for.
    if (controls.fps_cap) this.due = Math.max(this.due, begun - 0.5 / controls.fps_cap) + 1 / controls.fps_cap;
  }

  unwanted(solving, held) { // after a change one frame is given up, but not two in a row, as on the server
    const moved = this.hurry || streamSettings(solving) !== streamSettings(this.controls);
    const fresh = held && this.dream.now.action !== held;
    return (moved || (this.steering.pressed !== held && !fresh)) && !this.gaveUp;
  }

  jump(moment) {
    [this.gaveUp, this.due] = [false, 0];
    this.put(moment, this.version);
  }

  put(moment, version) {
    const begun = now(), pictures = moment.pictures.map((one) => bmp(one, this.model.size));
    const { id, index, time, nfe, action, seconds } = moment;
    const spent = { solve_ms: 1000 * seconds, encode_ms: 1000 * (now() - begun) };
    this.newest = pack({ id, index, time, nfe, action: action ?? null, version, ...spent, format: "image/bmp" }, pictures);
    this.flush();
  }

  flush() {
    if (!this.newest || !this.credits) return;
    this.credits--;
    this.show(this.newest);
    this.newest = null;
  }
}
