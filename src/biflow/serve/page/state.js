// What the modules of the page share. Imports go one way:
// state <- messages <- connection <- readings <- pictures <- controls <- images, tour <- steering
// <- pad, gamepad, keys <- main

export const $ = (id) => document.getElementById(id);
export const canvases = [$("a"), $("b")];

export const state = {
  hello: null, // the server's first message: models, ranges of the controls, names of solvers and formats
  controls: null, // as shown: those of the server, and changes that it has not answered yet
  header: null, // of the newest frame
  session: new URLSearchParams(location.search).get("session"),
  recording: false,
  steering: { by: null, autopilot: true }, // the number of the viewer who steers
  starts: { now: 0, own: [] }, // the number of what the stream started from; pictures of viewers, with their numbers
  reaction: null, // { at, version }: when a change was sent, and the version of the controls that contain it
};

export const model = (name) => state.hello.models.find((one) => one.name === name) ?? state.hello.models[0];
export const offers = (what) => state.hello.offers.includes(what); // sharing, recording or clips
export const twoUp = () => !$("second").hidden;
