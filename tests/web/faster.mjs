// What `onFaster` asks after its choice, with an onnxruntime of given times: node faster.mjs WORKER CPU GPU
// CPU: milliseconds; GPU: milliseconds, "none" if it cannot be used, or "lost" if it fails at its second use after that.

const [worker, cpu, gpu] = process.argv.slice(2);
const { onFaster } = await import(`${worker}/network.js`);
const asked = [];
let chosen = false;

const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const ort = {
  Tensor: class {},
  InferenceSession: {
    async create(_, { executionProviders: [provider] }) {
      if (provider === "webgpu" && gpu === "none") throw new Error("there is none");
      const name = provider === "wasm" ? "cpu" : "gpu", time = name === "cpu" ? +cpu : gpu === "lost" ? 1 : +gpu;
      return {
        async run() {
          await wait(time);
          if (chosen) asked.push(name);
          if (gpu === "lost" && asked.length === 2) throw new Error("it is lost");
          return { v: { data: [] } };
        },
      };
    },
  },
};

console.info = () => {};
const run = await onFaster(ort, null, { inputs: { x: [1] } });
chosen = true;
for (let i = 0; i < 2; i++) await run({ x: [0] });
console.log(JSON.stringify(asked));
