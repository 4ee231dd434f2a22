// A network by onnxruntime-web: a query's arrays and numbers → the arrays of its fields.

const TIMED = 5; // evaluations by which ways of running a network are compared

export async function evaluator(ort, network, { inputs }, provider) { // the bytes of a network, and "wasm" or "webgpu"
  const graph = await ort.InferenceSession.create(network, { executionProviders: [provider] });
  return async (query) => {
    const feeds = {};
    for (const [name, shape] of Object.entries(inputs)) {
      const value = query[name];
      feeds[name] = new ort.Tensor("float32", typeof value === "number" ? [value] : value, [1, ...shape]);
    }
    const answer = await graph.run(feeds);
    return { v: answer.v.data, n: answer.n?.data };
  };
}

export function start(ort, wasm, threads) { // the bytes of the program
  ort.env.wasm.wasmBinary = wasm.buffer.slice(wasm.byteOffset, wasm.byteOffset + wasm.byteLength);
  ort.env.wasm.wasmPaths = new URL("../onnxruntime/", import.meta.url).href;
  ort.env.wasm.numThreads = threads;
}

// Of the providers that run the network, the evaluator that takes the least time, and the time of each in milliseconds.
export async function fastest(ort, network, model, providers) {
  const query = {}, times = {};
  for (const [name, shape] of Object.entries(model.inputs)) query[name] = new Float32Array(shape.reduce((a, b) => a * b, 1));
  let best, failure;
  for (const provider of providers) {
    try {
      const run = await evaluator(ort, network, model, provider);
      await run(query); // which also translates the network for a GPU
      times[provider] = await median(() => run(query));
      if (!best || times[provider] < times[best.provider]) best = { run, provider };
    } catch (error) {
      failure = error;
      console.info(`This browser does not run the network by ${provider}: ${error.message ?? error}`);
    }
  }
  if (!best) throw failure;
  return { ...best, times };
}

async function median(work) {
  const times = [];
  while (times.length < TIMED) {
    const begun = performance.now();
    await work();
    times.push(performance.now() - begun);
  }
  return times.sort((a, b) => a - b)[TIMED >> 1];
}
