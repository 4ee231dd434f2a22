// The page of `biflow serve`. Frames come over one WebSocket: four bytes with the length of a JSON header, the header,
// then one picture or two. Every frame is acknowledged once it has been drawn; the server sends two ahead, never more.

const $ = (id) => document.getElementById(id);
const STRIP = 60, SPARK = 60;
const UNCAPPED = 61; // the right end of the frame-rate slider
const canvases = [$("a"), $("b")], captions = [$("caption-a"), $("caption-b")];

let socket, retrying, attempt = 0, ended = false;
let hello = null, controls = null, session = new URLSearchParams(location.search).get("session");
let recording = false, mineToSave = false, first = 0, header = null, roundTrip = 0, reaction = null;
let confirmed = null, mine = {}, unanswered = 0; // what the server says, and what has been asked of it since
let drawing = Promise.resolve();
const drawn = [], arrived = [], evaluations = [];

// ---- The connection -------------------------------------------------------------------------------------------------

function connect() {
  clearTimeout(retrying);
  const query = session ? `?session=${encodeURIComponent(session)}` : "";
  const link = socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/ws${query}`);
  link.binaryType = "arraybuffer";
  link.onmessage = ({ data }) => {
    if (link !== socket) return;
    if (typeof data === "string") return receive(JSON.parse(data));
    drawing = drawing.then(() => link === socket && draw(data)).catch(console.error);
  };
  link.onclose = () => { if (link === socket) lost(); };
}

function lost(text = "The connection to the server is lost.") {
  if (ended) return;
  socket = null;
  recording = false;
  state("lost", "Not connected");
  const seconds = Math.min(5, 0.5 * 2 ** attempt++);
  banner(`${text} Trying again ${seconds < 1 ? "now" : `every ${Math.round(seconds)} s`}.`);
  clearTimeout(retrying);
  retrying = setTimeout(connect, 1000 * seconds);
}

function send(message) {
  if (!["set", "ack", "ping"].includes(message.type)) flush(); // what was set before is meant for what is asked for now
  if (socket?.readyState === WebSocket.OPEN) socket.send(message instanceof Blob ? message : JSON.stringify(message));
}

const receivers = {
  hello(message) {
    const before = hello && message.new ? { controls, picture: header } : null;
    hello = message;
    session = message.session;
    attempt = unanswered = 0;
    mine = {};
    const address = new URL(location);
    address.searchParams.set("session", session);
    history.replaceState(null, "", address);
    banner("");
    state("live", "Live");
    $("strip").replaceChildren();
    recording = message.recording;
    furnish();
    receivers.controls(message);
    if (before?.picture) { // the session is gone, the server is back: go on from the picture on screen
      say(before.controls);
      canvases[0].toBlob((blob) => send(blob));
      toast("The server has forgotten the session; this one goes on from the picture on screen.");
    }
  },
  controls(message) {
    confirmed = message.controls;
    controls = { ...confirmed, ...(unanswered > 0 ? mine : {}), ...wanted };
    if (reaction && reaction.version === null) reaction.version = message.version;
    render();
  },
  told({ text }) { // the answer to every "set"
    if (text) toast(text);
    if (--unanswered > 0) return;
    mine = {};
    controls = { ...confirmed, ...wanted };
    render();
  },
  error: ({ text }) => toast(text),
  pong: ({ at }) => { roundTrip = performance.now() - at; },
  wait({ text }) {
    socket.onclose = null;
    attempt = 1;
    lost(text);
    state("wait", "Waiting");
  },
  recording({ on, name, frames }) {
    recording = on;
    render();
    const asked = mineToSave;
    mineToSave = on && asked;
    if (on) return toast("Recording. C, or the button, ends it.");
    if (!name) return toast("The recording holds no frames; nothing was saved.");
    const link = document.createElement("a");
    link.href = `recording/${session}/${name}`;
    link.download = "biflow.mp4";
    link.textContent = `Recorded ${frames} frames: biflow.mp4`;
    toast(link, 12000);
    if (asked) link.click(); // whoever else watches gets the link only
  },
  ended({ text }) {
    ended = true;
    session = null;
    state("lost", "Ended");
    banner(text, "Begin another");
  },
};
const receive = (message) => receivers[message.type]?.(message);

// ---- Pictures -------------------------------------------------------------------------------------------------------

async function draw(data) {
  const length = new DataView(data).getUint32(0, true);
  header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let offset = 4 + length;
  const pictures = await Promise.all(header.sizes.map((size) => {
    const blob = new Blob([new Uint8Array(data, offset, size)], { type: header.format });
    offset += size;
    return createImageBitmap(blob);
  }));
  const resized = $("second").hidden !== pictures.length < 2 || pictures.some((picture, i) => picture.width !== canvases[i].width);
  $("second").hidden = pictures.length < 2;
  $("pictures").dataset.count = pictures.length;
  pictures.forEach((picture, i) => {
    if (resized) Object.assign(canvases[i], { width: picture.width, height: picture.height });
    canvases[i].getContext("2d", { willReadFrequently: i === 1 || pictures.length > 1 }).drawImage(picture, 0, 0);
  });
  if (resized) fit();
  // A hidden page draws nothing, hence asks for nothing, unless it records.
  if (!recording) await new Promise(requestAnimationFrame);
  send({ type: "ack" });
  note(pictures[0]);
}

function note(picture) {
  const now = performance.now();
  drawn.push(now);
  arrived.push([now, header.id]);
  if (header.nfe[0]) evaluations.push(header.nfe[0]);
  while (evaluations.length > SPARK) evaluations.shift();
  if (reaction?.version != null && header.version >= reaction.version) {
    $("latency").dataset.reaction = Math.round(now - reaction.at);
    reaction = null;
  }
  canvases[0].dataset.frame = header.id;
  $("nfe").textContent = header.nfe.join(" | ");
  $("index").textContent = header.index;
  $("time").textContent = `t = ${+header.time.toFixed(2)}`;
  keep(picture);
  caption();
}

function keep(picture) {
  const strip = $("strip"), atEnd = strip.scrollLeft + strip.clientWidth > strip.scrollWidth - 80;
  const item = document.createElement("li"), button = document.createElement("button"), small = document.createElement("canvas");
  Object.assign(small, { width: picture.width, height: picture.height });
  small.getContext("2d").drawImage(picture, 0, 0);
  button.ariaLabel = `Back to frame ${header.index}`;
  button.title = `Frame ${header.index}: ${header.nfe.join(" | ")} evaluations`;
  button.dataset.frame = header.id;
  button.append(small);
  item.append(button);
  strip.querySelector(".now")?.classList.remove("now");
  item.className = "now";
  strip.append(item);
  while (strip.children.length > STRIP) strip.firstChild.remove();
  if (atEnd) strip.scrollLeft = strip.scrollWidth;
}

function caption() {
  const names = [[controls.model, controls.eps], [controls.model_b, controls.eps_b]];
  const several = hello.models.length > 1;
  const texts = names.map(([name, eps]) => `${several ? `${name} · ` : ""}${title(name)}, eps ${eps.toFixed(2)}`);
  captions[0].textContent = $("second").hidden && !several ? "" : texts[0];
  captions[1].textContent = $("second").hidden ? "" : `${texts[1]} · ${apart()}`;
  canvases[0].ariaLabel = `The stream: frame ${header?.index ?? 0}, ${controls.direction}, ${texts[0]}`;
  canvases[1].ariaLabel = `The second stream: ${texts[1]}`;
}

const title = (name) => ({ flow: "FLOW", biflow: "BI-FLOW", condiff: "CONDIFF" })[model(name).method];
const model = (name) => hello.models.find((one) => one.name === name) ?? hello.models[0];

function apart() {
  const [a, b] = canvases.map((canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
  if (a.length !== b.length) return "another size";
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2; // alpha is equal and adds nothing
  return `${Math.sqrt(sum / (a.length * 0.75)).toFixed(1)} grey levels apart`;
}

function fit() {
  const box = $("pictures"), style = getComputedStyle(box), pixel = devicePixelRatio || 1;
  const shown = $("second").hidden ? [canvases[0]] : canvases;
  const width = box.clientWidth - parseFloat(style.paddingLeft) * 2 - parseFloat(style.gap) * (shown.length - 1);
  const height = Math.max(240, innerHeight - (innerWidth > 960 ? 290 : 330));
  for (const canvas of shown) {
    const room = Math.min(width / shown.length / canvas.width, height / canvas.height) * pixel;
    const scale = (room < 1 ? room : Math.floor(room)) / pixel; // whole device pixels: every pixel a square of its own
    canvas.style.width = `${canvas.width * scale}px`;
    canvas.style.height = `${canvas.height * scale}px`;
  }
}

function read() {
  const now = performance.now();
  while (drawn.length > 2 && now - drawn[0] > 3000) drawn.shift();
  while (arrived.length > 2 && now - arrived[0][0] > 3000) arrived.shift();
  const rate = (count, since) => (count > 0 ? (1000 * count) / (now - since) : 0).toFixed(1);
  $("shown").textContent = hello ? rate(drawn.length - 1, drawn[0]) : "–";
  $("solved").textContent = hello ? rate(arrived.length ? arrived.at(-1)[1] - arrived[0][1] : 0, arrived[0]?.[0]) : "–";
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
  const recent = evaluations.slice(-10);
  canvas.ariaLabel = `Evaluations of the last frames: ${recent.join(", ")}; at most ${Math.max(0, ...evaluations)} of late`;
}

// ---- Controls -------------------------------------------------------------------------------------------------------

let wanted = {}, flushing;
function set(values) {
  Object.assign(wanted, values);
  if (!hello) return;
  Object.assign(controls, values);
  if (flushing) return;
  flush();
  flushing = setTimeout(() => { flushing = null; flush(); }, 60); // a slider says more than anybody can draw
}
function flush() {
  if (!Object.keys(wanted).length) return;
  reaction = { at: performance.now(), version: null };
  say(wanted);
  wanted = {};
  render();
}

function say(values) {
  Object.assign(mine, values);
  unanswered++;
  send({ type: "set", controls: values });
}

// Slider: what it shows of a control's value, what it says, and what of the slider becomes the value.
const sliders = {
  eps: [(v) => v, (v) => v.toFixed(2), (v) => v],
  eps_b: [(v) => v, (v) => v.toFixed(2), (v) => v],
  rtol: [(v) => Math.log10(v), (v) => v.toPrecision(2).replace(/\.0(?=e|$)/, ""), (v) => +(10 ** v).toPrecision(2)],
  steps: [(v) => v ?? 4, (v) => String(v ?? 4), (v) => v],
  in_between: [(v) => v, (v) => String(v), (v) => v],
  fps_cap: [(v) => v ?? UNCAPPED, (v) => (v ? `${+v.toFixed(1)} frames/s` : "as solved"), (v) => (v >= UNCAPPED ? null : v)],
};
let held = null; // the slider under a finger stays where the finger is
for (const [name, [, , value]] of Object.entries(sliders)) {
  $(name).addEventListener("input", () => set({ [name]: value($(name).valueAsNumber) }));
  $(name).addEventListener("pointerdown", () => { held = name; });
}
addEventListener("pointerup", () => { held = null; if (controls) render(); });
for (const name of ["model", "model_b", "solver", "format"]) $(name).addEventListener("change", () => set({ [name]: $(name).value }));

function furnish() {
  const fill = (select, rows) => select.replaceChildren(...rows.map(([value, text]) => new Option(text, value)));
  fill($("model"), hello.models.map((one) => [one.name, one.title]));
  fill($("model_b"), hello.models.map((one) => [one.name, one.title]));
  fill($("solver"), hello.solvers.map((name) => [name, { adams: "Adams (default)", reference: "the paper's" }[name] ?? name]));
  $("eps").max = hello.ranges.eps[1];
}

let shownModel;
function firsts() {
  if (shownModel === model(controls.model)) return;
  shownModel = model(controls.model);
  $("firsts").replaceChildren(...shownModel.first.map((source, i) => {
    const item = document.createElement("li"), button = document.createElement("button"), image = new Image();
    Object.assign(image, { src: source, alt: `First frame ${i + 1}` });
    button.title = `Start from this one (${i + 1})`;
    button.append(image);
    button.onclick = () => restart(i);
    item.append(button);
    return item;
  }));
}

function render() {
  const c = controls, one = model(c.model), fixed = c.steps !== null;
  document.body.classList.toggle("playing", c.playing);
  $("play").lastChild.textContent = c.playing ? "Pause" : "Play";
  press("direction", c.direction === "backward");
  press("two", c.two_up);
  press("record", recording);
  $("record").lastChild.textContent = recording ? "Finish" : "Record";
  press("smooth", $("pictures").classList.contains("smooth"));
  for (const name of ["model", "model_b", "solver", "format"]) $(name).value = c[name];
  for (const [name, [place, text]] of Object.entries(sliders)) {
    if (held !== name) $(name).value = place(c[name]);
    $(`${name}-out`).textContent = $(name).ariaValueText = text(c[name]);
  }
  if (document.activeElement !== $("seed")) $("seed").value = c.seed;
  $(fixed ? "fixed" : "adaptive").checked = true;
  $("fixed").disabled = c.solver === "reference";
  $("adaptive").disabled = hello.need_steps.includes(c.solver);
  $("rtol-row").hidden = fixed;
  $("steps-row").hidden = !fixed;
  $("second-controls").hidden = !c.two_up;
  $("model_b").parentElement.hidden = hello.models.length < 2;
  $("eps").disabled = one.method !== "biflow";
  $("eps_b").disabled = model(c.model_b).method !== "biflow";
  $("direction").disabled = $("in_between").disabled = one.method === "condiff";
  firsts();
  document.querySelectorAll("#firsts button").forEach((button, i) => button.classList.toggle("now", i === first));
  caption();
}

const press = (id, on) => { $(id).ariaPressed = on; };

function restart(index) {
  first = index;
  send({ type: "restart", first: index });
  render();
}

function go(button) {
  if (button) send({ type: "back", frame: +button.dataset.frame });
}

function back() {
  set({ playing: false });
  const buttons = [...$("strip").querySelectorAll("button")], at = buttons.findLastIndex((button) => button.closest(".now"));
  // After going back the newest in the strip is the frame gone back to: look for the one before it in time.
  const index = header.index - 1;
  go(buttons.slice(0, at).findLast((button) => button.ariaLabel === `Back to frame ${index}`));
}

// ---- Images in and out ----------------------------------------------------------------------------------------------

async function upload(file) {
  if (!file || !hello) return;
  let blob = file;
  if (file.size > hello.upload_bytes || !/^image\/(png|jpeg|webp|gif)$/.test(file.type)) {
    try { // a large photograph: the model wants far fewer pixels anyhow
      const picture = await createImageBitmap(file), shrink = Math.min(1, 1024 / Math.max(picture.width, picture.height));
      const canvas = new OffscreenCanvas(Math.max(1, picture.width * shrink), Math.max(1, picture.height * shrink));
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    } catch {
      return toast("That is no image that can be read here; give a PNG, JPEG, WebP or GIF.");
    }
  }
  first = -1;
  send(new Blob([blob]));
  render();
}

async function camera() {
  let film;
  try {
    film = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch {
    return toast("There is no camera, or the browser may not use it.");
  }
  $("video").srcObject = film;
  $("camera").returnValue = "";
  $("camera").showModal();
  $("camera").onclose = () => {
    const video = $("video"), side = Math.min(video.videoWidth, video.videoHeight);
    if ($("camera").returnValue === "shoot" && side) {
      const canvas = new OffscreenCanvas(256, 256);
      canvas.getContext("2d").drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, 256, 256);
      canvas.convertToBlob({ type: "image/png" }).then(upload);
    }
    film.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
}

function snapshot() {
  const shown = $("second").hidden ? [canvases[0]] : canvases, scale = Math.max(1, Math.floor(512 / canvases[0].width));
  const whole = document.createElement("canvas");
  whole.width = shown.reduce((sum, canvas) => sum + canvas.width * scale, 0);
  whole.height = Math.max(...shown.map((canvas) => canvas.height * scale));
  const pen = whole.getContext("2d");
  pen.imageSmoothingEnabled = $("pictures").classList.contains("smooth");
  shown.reduce((x, canvas) => (pen.drawImage(canvas, x, 0, canvas.width * scale, canvas.height * scale), x + canvas.width * scale), 0);
  whole.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `biflow-${header?.index ?? 0}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

// ---- Words ----------------------------------------------------------------------------------------------------------

function state(name, text) {
  $("state").dataset.state = name;
  $("state").lastElementChild.textContent = text;
}
function banner(text, action = "Try now") {
  $("banner").hidden = !text;
  $("banner").firstElementChild.textContent = text;
  $("retry").textContent = action;
}
function toast(content, milliseconds = 6000) {
  const line = document.createElement("p");
  line.append(content);
  if ($("toasts").lastChild?.textContent === line.textContent) $("toasts").lastChild.remove();
  $("toasts").append(line);
  while ($("toasts").children.length > 3) $("toasts").firstChild.remove();
  setTimeout(() => line.remove(), milliseconds);
}
const speak = (text) => { $("spoken").textContent = text; };

// ---- Buttons and keys -----------------------------------------------------------------------------------------------

const cycle = (list, value) => list[(list.indexOf(value) + 1) % list.length];
const nudge = (name, by) => {
  const slider = $(name), value = Math.min(+slider.max, Math.max(+slider.min, +slider.value + by * slider.step));
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
  speak(`${name.replace("_", " ")} ${$(`${name}-out`).textContent}`);
};
const turn = (direction) => { if (!$("direction").disabled) { set({ direction }); speak(direction); } };
const actions = {
  play: () => { set({ playing: !controls.playing }); speak(controls.playing ? "playing" : "paused"); },
  step: () => send({ type: "step" }),
  direction: () => turn(controls.direction === "forward" ? "backward" : "forward"),
  restart: () => (first >= 0 ? restart(first) : restart(0)),
  two: () => set({ two_up: !controls.two_up }),
  record: () => { mineToSave = true; send({ type: "record", on: !recording }); },
  snapshot,
  reseed: () => { set({ seed: crypto.getRandomValues(new Uint32Array(1))[0] }); speak(`seed ${controls.seed}`); },
  smooth: () => { $("pictures").classList.toggle("smooth"); render(); },
  upload: () => $("file").click(),
  webcam: camera,
  help: () => $("keys").showModal(),
  share: async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      toast("Link copied. Whoever opens it watches, and steers, this session.");
    } catch {
      toast(location.href, 15000);
    }
  },
};
for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", () => (hello || id === "help") && action());

const keys = {
  " ": actions.play, ".": actions.step, ",": back, b: actions.direction, r: actions.restart, t: actions.two,
  c: actions.record, s: snapshot, n: actions.reseed, p: actions.smooth, u: actions.upload, w: camera,
  ArrowLeft: () => turn("backward"), ArrowRight: () => turn("forward"),
  "[": () => nudge("eps", -1), "]": () => nudge("eps", 1), "{": () => nudge("eps_b", -1), "}": () => nudge("eps_b", 1),
  "<": () => (controls.steps === null ? nudge("rtol", 1) : nudge("steps", -1)),
  ">": () => (controls.steps === null ? nudge("rtol", -1) : nudge("steps", 1)),
  "-": () => nudge("fps_cap", -1), "+": () => nudge("fps_cap", 1), "=": () => nudge("fps_cap", 1),
  i: () => { set({ in_between: (controls.in_between % 8) + 1 }); speak(`${controls.in_between} frames a step`); },
  v: () => { set({ solver: cycle(hello.solvers, controls.solver) }); speak(`solver ${controls.solver}`); },
  a: () => { set({ steps: controls.steps === null ? 4 : null }); speak(controls.steps === null ? "adaptive" : "fixed steps"); },
  m: () => { set({ model: cycle(hello.models.map((one) => one.name), controls.model) }); speak(`model ${controls.model}`); },
  "?": actions.help,
};
addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = target.matches("select, input[type=number]");
  const own = target.matches("input") && key.startsWith("Arrow");
  const pressing = key === " " && target.matches("button, input[type=radio], a");
  if (typing || own || pressing || (!hello && key !== "?")) return;
  const name = key.length === 1 ? key.toLowerCase() : key;
  if (/^[1-9]$/.test(name)) {
    if (+name <= shownModel.first.length) restart(+name - 1);
  } else if (keys[name]) {
    keys[name]();
  } else {
    return;
  }
  event.preventDefault();
});

$("adaptive").addEventListener("change", () => set({ steps: null }));
$("fixed").addEventListener("change", () => set({ steps: 4 }));
$("seed").addEventListener("change", () => { const seed = $("seed").valueAsNumber; if (Number.isFinite(seed)) set({ seed: Math.round(seed) }); });
$("retry").addEventListener("click", () => { ended = false; header = null; connect(); });
$("file").addEventListener("change", () => { upload($("file").files[0]); $("file").value = ""; });
$("strip").addEventListener("click", (event) => go(event.target.closest("button")));
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) upload(file);
});
addEventListener("dragover", (event) => { event.preventDefault(); $("pictures").classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("pictures").classList.remove("dropping"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("pictures").classList.remove("dropping");
  upload(event.dataTransfer.files[0]);
});
addEventListener("resize", fit);
setInterval(read, 500);
setInterval(() => send({ type: "ping", at: performance.now() }), 2000);
fit();
connect();
