// Streams in node by the worker's modules, and writes the frames as float32: node stream.mjs WORKER SETTINGS OUT [SITE]
// With the folder of an exported page, by its network.

import { readFileSync, writeFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

const [worker, settings, out, site] = process.argv.slice(2);
const load = (name) => import(`${worker}/${name}`);
const { nextFrame } = await load("dream.js"), { Generator } = await load("random.js");
const { model, first, past, frames, actions, seed, ...how } = JSON.parse(readFileSync(settings));

// The network of tests.web.test_worker: sums of its inputs, with weights that tell them apart.
async function sums({ x, t = 0, alpha = 0, condition, past, past_noise, action, jump = 0 }) {
  const area = x.length, sum = (values) => values?.reduce((total, value) => total + value, 0) ?? 0;
  const shift = 0.3 * t + 0.2 * alpha + 0.05 * sum(past_noise) + 0.1 * sum(action) + 0.4 * jump;
  const v = x.map((value, i) => {
    let total = -0.4 * value + 0.5 * (condition?.[i] ?? 0) + shift + 0.05 * (i % 5);
    for (let m = 0; past && m * area < past.length; m++) total += (0.1 / (m + 1)) * past[m * area + i];
    return total;
  });
  return { v, n: v.map((value) => 0.5 * value - 0.1) };
}

async function exported() {
  const { module, binary } = model.runtimes.cpu, read = (name) => gunzipSync(readFileSync(`${site}/${name}`));
  const ort = await import(`${site}/${module}`), { evaluator, start } = await load("network.js");
  start(ort, read(binary), 1);
  return evaluator(ort, read("model/network.onnx.gz"), model, "wasm");
}

const network = site ? await exported() : sums;
const generator = new Generator(seed), shown = [];
let x = Float32Array.from(first), before = past.map((one) => Float32Array.from(one));
for (let i = 0; i < frames; i++) {
  const next = await nextFrame(model, network, x, { past: before, action: actions?.[i] ?? null, generator, ...how });
  if (!how.backward) before = [x, ...before].slice(0, model.context);
  shown.push(...(x = next.x));
}
writeFileSync(out, Float32Array.from(shown));
process.exit(); // onnxruntime would keep node running
