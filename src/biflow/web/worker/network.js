// A network by onnxruntime-web: a query's arrays and numbers → the arrays of its fields.

export async function evaluator(ort, wasm, network, { inputs }, threads) { // the bytes of the program and of the network
  ort.env.wasm.wasmBinary = wasm.buffer.slice(wasm.byteOffset, wasm.byteOffset + wasm.byteLength);
  ort.env.wasm.wasmPaths = new URL("../onnxruntime/", import.meta.url).href;
  ort.env.wasm.numThreads = threads;
  const graph = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
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
