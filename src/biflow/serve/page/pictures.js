// Frames on screen, and the strip of past ones, which shows one of several. A frame is four bytes with the length of a JSON header, the header, and
// one picture or two. Each is acknowledged once it has been drawn; the server sends at most two ahead.

import { send } from "./connection.js";
import { note } from "./readings.js";
import { $, canvases, model, state, twoUp } from "./state.js";

const past = []; // { id, index } of the newest frames, as many as the server keeps
let shownGroup = null; // which group of frames the newest picture of the strip stands for
const captions = [$("caption-a"), $("caption-b")];

export async function draw(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = state.header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let offset = 4 + length;
  const pictures = await Promise.all(header.sizes.map((size) => {
    const blob = new Blob([new Uint8Array(data, offset, size)], { type: header.format });
    offset += size;
    return createImageBitmap(blob);
  })).catch((error) => { // as on a phone short of memory; without an answer the server would wait for ever
    send({ type: "ack" });
    throw error;
  });
  const differs = ({ width, height }, i) => width !== canvases[i].width || height !== canvases[i].height;
  const resized = twoUp() !== pictures.length > 1 || pictures.some(differs);
  $("second").hidden = pictures.length < 2;
  $("pictures").dataset.count = pictures.length;
  pictures.forEach((picture, i) => {
    if (resized) Object.assign(canvases[i], { width: picture.width, height: picture.height });
    canvases[i].getContext("2d", { willReadFrequently: i === 1 || pictures.length > 1 }).drawImage(picture, 0, 0);
  });
  if (resized) fit();
  // A hidden page draws nothing, and so asks for nothing, unless it records.
  if (!state.recording) await new Promise(requestAnimationFrame);
  send({ type: "ack" });
  canvases[0].dataset.frame = header.id;
  note(header);
  keep(pictures[0], header);
  caption();
  pictures.forEach((picture) => picture.close());
}

export function fit() {
  const box = $("pictures"), style = getComputedStyle(box), pixel = devicePixelRatio || 1;
  const shown = twoUp() ? canvases : [canvases[0]];
  const width = box.clientWidth - parseFloat(style.paddingLeft) * 2 - parseFloat(style.gap) * (shown.length - 1);
  const rest = innerWidth > 960 ? 330 + $("steering").offsetHeight : 330; // what is to be seen with the pictures
  const height = document.fullscreenElement ? innerHeight - 60 : Math.max(240, innerHeight - rest);
  for (const canvas of shown) {
    const room = Math.min(width / shown.length / canvas.width, height / canvas.height) * pixel;
    const scale = (room < 1 ? room : Math.floor(room)) / pixel; // whole device pixels, so that all are equally large
    canvas.style.width = `${canvas.width * scale}px`;
    canvas.style.height = `${canvas.height * scale}px`;
  }
}

function keep(picture, header) {
  const { every, frames } = state.hello.strip;
  past.push({ id: header.id, index: header.index });
  while (past.length > frames) past.shift();
  const group = Math.floor(header.index / every), jump = !header.nfe[0];
  if (group === shownGroup && !jump) return;
  shownGroup = group;
  const strip = $("strip"), atEnd = strip.scrollLeft + strip.clientWidth > strip.scrollWidth - 80;
  const [item, button, small] = ["li", "button", "canvas"].map((name) => document.createElement(name));
  Object.assign(small, { width: picture.width, height: picture.height });
  small.getContext("2d").drawImage(picture, 0, 0);
  button.ariaLabel = backTo(header.index);
  button.title = `Frame ${header.index}: ${header.nfe.join(" | ")} evaluations`;
  button.dataset.frame = header.id;
  button.append(small);
  item.append(button);
  strip.querySelector(".now")?.classList.remove("now");
  item.className = "now";
  strip.append(item);
  while (strip.children.length > frames / every) strip.firstChild.remove();
  if (atEnd) strip.scrollLeft = strip.scrollWidth;
}

const backTo = (index) => `Back to frame ${index}`;

// The id of the frame before the one on screen. After going back, the newest one is the one gone back to, so look for
// the one before it in time.
export const frameBefore = () => past.findLast(({ index }) => index === state.header.index - 1)?.id;

export function forgetPast() { // the server has other frames now
  past.length = 0;
  shownGroup = null;
  $("strip").replaceChildren();
}

export function caption() {
  const { controls, header, hello } = state;
  const several = hello.models.length > 1;
  const text = (name, eps) => `${several ? `${name} · ` : ""}${model(name).method_title}, correction ${eps.toFixed(2)}`;
  const level = controls.auto && header?.eps ? header.eps : controls.eps;
  const texts = [text(controls.model, level), text(controls.model_b, controls.eps_b)];
  // The slider goes with a level that is chosen, which every frame may change.
  if (controls.auto && header?.eps) $("eps").value = $("eps").ariaValueText = $("eps-out").textContent = level.toFixed(2);
  captions[0].textContent = twoUp() || several ? texts[0] : "";
  captions[1].textContent = twoUp() ? `${texts[1]} · ${difference()}` : "";
  canvases[0].ariaLabel = `The stream: frame ${header?.index ?? 0}, ${controls.direction}, ${texts[0]}`;
  canvases[1].ariaLabel = `The second stream: ${texts[1]}`;
}

function difference() {
  const [a, b] = canvases.map((canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
  if (a.length !== b.length) return "another size";
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2; // opacity is the same and adds nothing
  return `${Math.sqrt(sum / (a.length * 0.75)).toFixed(1)} grey levels apart`;
}
