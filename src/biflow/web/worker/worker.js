// The worker of a page without a server. It loads the network, and then does what the server does.

import { evaluator, onFaster, start } from "./network.js";
import { Session } from "./session.js";

const THREADS = 4; // at most, since more do not help networks this small; and the page needs some of the cores
const waiting = []; // messages that came before the session
let session;

self.onmessage = ({ data }) => (session ? take(data) : waiting.push(data));

async function take(data) {
  if (typeof data === "string") return session.receive(JSON.parse(data));
  try {
    session.restartFrom(await decode(data, session.model.size), URL.createObjectURL(data));
  } catch {
    session.error("This file cannot be read as an image; choose a PNG, JPEG, WebP or GIF.");
  }
}

async function decode(blob, [height, width]) { // its centre, as pixels of that size
  const whole = await createImageBitmap(blob), scale = Math.min(whole.width / width, whole.height / height);
  const [w, h] = [width * scale, height * scale].map((side) => Math.max(1, Math.round(side)));
  const [left, top] = [(whole.width - w) / 2, (whole.height - h) / 2].map(Math.floor);
  const size = { resizeWidth: width, resizeHeight: height, resizeQuality: "high" };
  const picture = await createImageBitmap(whole, left, top, w, h, size);
  const pen = new OffscreenCanvas(width, height).getContext("2d");
  pen.fillRect(0, 0, width, height); // black, under what is transparent
  pen.drawImage(picture, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height), area = height * width, pixels = new Uint8Array(3 * area);
  for (let i = 0; i < area; i++) for (let c = 0; c < 3; c++) pixels[c * area + i] = data[4 * i + c];
  return pixels;
}

const tell = (message) => postMessage(JSON.stringify(message));

const channel = new MessageChannel(), breaths = []; // a timer would wait for milliseconds
channel.port1.onmessage = () => breaths.shift()();
const breathe = () => new Promise((done) => { breaths.push(done); channel.port2.postMessage(null); });

async function fetched(name, told) { // the bytes of a file; `told` hears how many have come
  const answer = await fetch(new URL(`../${name}`, import.meta.url));
  if (!answer.ok) throw new Error(`${name} cannot be loaded: the server answers ${answer.status}.`);
  const counted = answer.body.pipeThrough(new TransformStream({
    transform(chunk, out) { told?.(chunk.length); out.enqueue(chunk); },
  }));
  const whole = name.endsWith(".gz") ? counted.pipeThrough(new DecompressionStream("gzip")) : counted;
  return new Uint8Array(await new Response(whole).arrayBuffer());
}

const json = async (name) => JSON.parse(new TextDecoder().decode(await fetched(name)));

async function hasGpu() { // and can wait for one within WebAssembly, as onnxruntime's smaller build for GPUs does
  try {
    return "Suspending" in WebAssembly && Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

async function begin() {
  const [model, hello, gpu] = await Promise.all([json("model/model.json"), json("model/hello.json"), hasGpu()]);
  const { module, binary, bytes } = model.runtimes[gpu ? "gpu" : "cpu"];
  let came = 0;
  const told = (more) => {
    came += more;
    tell({ type: "loading", text: `Loading the model: ${(came / 1e6).toFixed(1)} of ${(bytes / 1e6).toFixed(1)} MB` });
  };
  const files = ["model/network.onnx.gz", binary, "model/first.bin"];
  const [network, wasm, pixels] = await Promise.all(files.map((name) => fetched(name, told)));
  tell({ type: "loading", text: "Starting the model…" });
  const cores = self.crossOriginIsolated ? navigator.hardwareConcurrency || 1 : 1;
  const threads = Math.min(THREADS, cores, Math.max(2, Math.ceil(cores / 2))); // of two cores, both: a third faster
  const ort = await import(`../${module}`);
  start(ort, wasm, threads);
  const run = await (gpu ? onFaster(ort, network, model) : evaluator(ort, network, model, "wasm"));
  session = new Session({ hello, model, first: starts(pixels, model), network: run, tell, show, breathe });
  for (const data of waiting.splice(0)) take(data);
  await session.run();
}

function starts(pixels, { first: [count, length], size: [height, width] }) { // lists of pictures, each of pixels
  const area = 3 * height * width;
  const picture = (i) => pixels.subarray(i * area, (i + 1) * area);
  return Array.from({ length: count }, (_, i) => Array.from({ length }, (_, j) => picture(i * length + j)));
}

const show = (message) => postMessage(message, [message]);

begin().catch((error) => {
  console.error(error);
  tell({ type: "ended", text: `The model could not be started: ${error.message ?? error}` });
});
