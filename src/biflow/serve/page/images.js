// Images to start from (files, clipboard, camera), and snapshots to save.

import { ask, render } from "./controls.js";
import { toast } from "./messages.js";
import { $, canvases, state, twoUp } from "./state.js";

export async function upload(file) {
  if (!file || !state.hello) return;
  let blob = file;
  if (file.size > state.hello.upload_bytes || !/^image\/(png|jpeg|webp|gif)$/.test(file.type)) {
    try { // make a large photograph smaller; the model takes far fewer pixels anyway
      const picture = await createImageBitmap(file);
      const shrink = Math.min(1, 1024 / Math.max(picture.width, picture.height));
      const canvas = new OffscreenCanvas(Math.max(1, picture.width * shrink), Math.max(1, picture.height * shrink));
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    } catch {
      return toast("This file cannot be read as an image; choose a PNG, JPEG, WebP or GIF.");
    }
  }
  state.first = -1;
  ask(new Blob([blob]));
  render();
}

export async function camera() {
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
  whole.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `biflow-${state.header?.index ?? 0}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

export function acceptDrops() {
  $("file").addEventListener("change", () => { upload($("file").files[0]); $("file").value = ""; });
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
}
