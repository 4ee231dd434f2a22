// Images to start from (files, clipboard, camera), and pictures and clips to save.

import { ask } from "./controls.js";
import { toast } from "./messages.js";
import { $, canvases, model, offers, state, twoUp } from "./state.js";

const SIDE = 1024; // pixels of what is sent at most; models take far fewer
const READABLE = /^image\/(png|jpeg|webp|gif)$/; // by the server

export async function upload(file) {
  if (!file || !state.hello) return;
  const blob = await prepared(file).catch(() => null);
  if (!blob) return toast(await unreadable(file));
  ask(blob);
}

async function prepared(file) { // the file itself if it is small, else a smaller JPEG, upright
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    const { size } = model(state.controls.model), scale = Math.max(SIDE, 2 * Math.max(...size)) / Math.max(width, height);
    if (scale >= 1 && file.size < 2 ** 20 && READABLE.test(file.type)) return new Blob([file]);
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * Math.min(1, scale)));
    canvas.height = Math.max(1, Math.round(height * Math.min(1, scale)));
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => { canvas.toBlob(done, "image/jpeg", 0.92); });
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

async function unreadable(file) {
  const start = await file.slice(4, 12).text();
  if (/^ftyp(hei|hev|mif|msf)/.test(start)) {
    return "This browser cannot read HEIC photos. Save the photo as a JPEG, or set the phone’s camera to “Most compatible”.";
  }
  return "This file cannot be read as an image; choose a PNG, JPEG, WebP or GIF.";
}

let asked = false; // for the camera

export async function camera() {
  if (asked) return; // the browser asks for permission, or the dialog is open
  asked = true;
  let film;
  try {
    film = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch {
    asked = false;
    return toast("There is no camera, or the browser may not use it.");
  }
  $("video").srcObject = film;
  $("camera").returnValue = "";
  $("camera").showModal();
  $("camera").onclose = () => {
    asked = false;
    const video = $("video"), side = Math.min(video.videoWidth, video.videoHeight);
    if ($("camera").returnValue === "shoot" && side) {
      const canvas = new OffscreenCanvas(256, 256);
      const left = (video.videoWidth - side) / 2, top = (video.videoHeight - side) / 2;
      canvas.getContext("2d").drawImage(video, left, top, side, side, 0, 0, 256, 256);
      canvas.convertToBlob({ type: "image/png" }).then(upload);
    }
    film.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
}

export function snapshot() {
  const shown = twoUp() ? canvases : [canvases[0]], scale = Math.max(1, Math.floor(512 / canvases[0].width));
  const whole = document.createElement("canvas");
  whole.width = shown.reduce((sum, canvas) => sum + canvas.width * scale, 0);
  whole.height = Math.max(...shown.map((canvas) => canvas.height * scale));
  const pen = whole.getContext("2d");
  pen.imageSmoothingEnabled = $("pictures").classList.contains("smooth");
  let x = 0;
  for (const canvas of shown) {
    pen.drawImage(canvas, x, 0, canvas.width * scale, canvas.height * scale);
    x += canvas.width * scale;
  }
  whole.toBlob((blob) => save(blob, `biflow-${state.header?.index ?? 0}.png`));
}

export async function lastSeconds() { // of the stream, as the server has kept them
  if (!offers("clip")) return;
  const answer = await fetch(`clip/${state.session}`).catch(() => null);
  if (!answer?.ok) return toast(answer ? await answer.text() : "The server does not answer.");
  save(await answer.blob(), "biflow-5s.mp4");
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export function acceptDrops() {
  $("file").addEventListener("change", () => { upload($("file").files[0]); $("file").value = ""; });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) upload(event.clipboardData.files[0]);
  });
  addEventListener("dragover", (event) => { event.preventDefault(); $("pictures").classList.add("dropping"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("pictures").classList.remove("dropping"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("pictures").classList.remove("dropping");
    upload(event.dataTransfer.files[0]);
  });
}
