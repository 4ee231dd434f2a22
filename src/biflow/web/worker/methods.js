// The methods, as biflow.methods has them: the state that a frame is solved from, and the field that it is solved along.
// `noise()` gives white noise of the frame's size; `ask(query)` resolves to the network's fields.

export const methods = {
  flow: {
    start: (frame) => frame,
    field: (ask) => async (x, t) => (await ask({ x, t })).v,
  },

  biflow: {
    start(frame, eps, noise) {
      if (!eps) return frame;
      const n = noise();
      return frame.map((value, i) => value + eps * n[i]);
    },
    field: (ask, { eps, backward }) => async (x, k) => {
      const { v, n } = await ask({ x, t: k, alpha: backward ? eps * k : eps * (1 - k) });
      const change = backward ? eps : -eps; // of alpha, over k
      return v.map((value, i) => value + change * n[i]);
    },
  },

  flowmap: {
    start: (frame, eps, noise) => methods.biflow.start(frame, eps, noise),
    field: (ask, how) => methods.biflow.field((query) => ask({ ...query, jump: how.jump }), how), // of length 0: the field itself
    backward: ({ solver }) => (solver === "euler" ? { solver: "adams", steps: 4 } : {}), // no jumps were learned
  },

  condiff: {
    start: (frame, eps, noise) => noise(),
    field: (ask, { frame }) => async (x, alpha) => (await ask({ x, alpha, condition: frame })).v,
  },
};
