// A network by onnxruntime-web: a query's arrays and numbers → the arrays of its fields.

const TIMED = 5, LONG = 500; // evaluations by which ways of running a network are compared; milliseconds that are enough

export function start(ort, wasm, threads) { // the bytes of the program
  ort.env.wasm.wasmBinary = wasm.buffer.slice(wasm.byteOffset, wasm.byteOffset + wasm.byteLength);
  ort.env.wasm.wasmPaths = new URL("../onnxruntime/", import.meta.url).href;
  ort.env.wasm.numThreads = threads;
}

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

// On the GPU if it takes less time there than on the CPU, and on the CPU from the moment that the GPU fails.
export async function onFaster(ort, network, model) {
  const onCpu = await evaluator(ort, network, model, "wasm"), query = {};
  for (const [name, shape] of Object.entries(model.inputs)) query[name] = new Float32Array(shape.reduce((a, b) => a * b, 1));
  try {
    const onGpu = await evaluator(ort, network, model, "webgpu");
    const [cpu, gpu] = [await timed(() => onCpu(query)), await timed(() => onGpu(query))];
    console.info(`An evaluation takes ${cpu.toFixed(1)} ms on the CPU, ${gpu.toFixed(1)} ms on the GPU.`);
    return gpu < cpu ? orElse(onGpu, onCpu) : onCpu;
  } catch (error) {
    console.info(`The GPU does not run this network: ${error.message ?? error}`);
    return onCpu;
  }
}

function orElse(onGpu, onCpu) { // a GPU can be lost, as when a computer sleeps
  let run = onGpu;
  return (query) => run(query).catch((error) => {
    if (run === onCpu) throw error;
    console.info(`The page goes on without the GPU: ${error.message ?? error}`);
    run = onCpu;
    return run(query);
  });
}

async function timed(work) { // the median in milliseconds, after a first call, which may translate the network
  await work();
  const times = [], begun = performance.now();
  while (times.length < TIMED && performance.now() - begun < LONG) {
    const before = performance.now();
    await work();
    times.push(performance.now() - before);
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}
