// The action that is held: biflow.serve.steering for one viewer.

const PATIENCE = 10; // seconds without a key after which the model continues by itself
const VIEWER = 1;

const now = () => performance.now() / 1000;

export class Steering {
  constructor(actions, tell) {
    Object.assign(this, { actions, tell, pressed: null, deadline: Infinity });
  }

  act(wanted) { // values of columns; those that are left out are neutral
    if (!this.actions) return this.tell({ type: "error", text: "This model takes no actions." });
    const { columns, neutral, ranges } = this.actions, held = {};
    columns.forEach((name, i) => {
      const value = Math.min(ranges[i][1], Math.max(ranges[i][0], wanted?.[name] ?? neutral[i]));
      if (Number.isFinite(value) && value !== neutral[i]) held[name] = value;
    });
    const taken = !this.pressed;
    this.pressed = held;
    this.deadline = Object.keys(held).length ? Infinity : now() + PATIENCE;
    if (taken) this.say(VIEWER);
  }

  rest() { // let the autopilot take over from a viewer who has pressed nothing for long
    if (now() < this.deadline) return;
    [this.pressed, this.deadline] = [null, Infinity];
    this.say(null);
  }

  say(by) { this.tell({ type: "steering", by, autopilot: !this.pressed }); }
}

export function held({ columns, neutral }, row) { // an action in the model's columns
  return Object.fromEntries(columns.map((name, i) => [name, row[i]]).filter(([, value], i) => value !== neutral[i]));
}
