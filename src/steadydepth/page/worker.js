// The worker of the page without a server: the model, and the learned filter behind it, in ONNX Runtime Web.

import { isDepth, isMeasured, quantile } from "./colours.js";
import { fitImage, resizeDepth } from "./resize.js";

const TYPES = { float32: Float32Array, float64: Float64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };

let ort, web, network, filter;
let state = {}; // what the model remembers
let filterState = {}; // and the filter
let size = ""; // of the frame before

const queue = [];
let isBusy = false;
self.onmessage = ({ data }) => {
  queue.push(data);
  if (!isBusy) work();
};

async function work() {
  isBusy = true;
  while (queue.length) {
    const message = queue.shift();
    try {
      if (message.kind === "open") await open(message);
      else await answer(message);
    } catch (error) {
      self.postMessage({ kind: "failed", reason: error.message });
    }
  }
  isBusy = false;
}

async function open({ withFilter }) {
  web = await (await fetch(new URL("web.json", import.meta.url))).json();
  const files = await Promise.all([web.model, ...(withFilter && web.filter ? [web.filter] : [])].map(bytesOf));
  await begin("wasm", "./ort.wasm.min.mjs", files);
  if (web.webgpu && (await navigator.gpu?.requestAdapter())) await tryGpu(files);
  self.postMessage({ kind: "ready" });
}

async function bytesOf(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name} is missing`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function begin(provider, library, files) {
  ort = await import(library);
  // Threads need pages that no other site can look into, which a plain file server does not say.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const options = { executionProviders: [provider], graphOptimizationLevel: "all" };
  network = await ort.InferenceSession.create(files[0], options);
  // Small, and full of sums that a GPU is asked for one by one.
  filter = files[1] ? await ort.InferenceSession.create(files[1], { ...options, executionProviders: ["wasm"] }) : null;
}

// The GPU where it is faster than WebAssembly and gives the same depth.
async function tryGpu(files) {
  const [slow, expected] = await clock();
  const before = [ort, network, filter];
  try {
    await begin("webgpu", "./ort.webgpu.min.mjs", files);
    const [fast, found] = await clock();
    const isSame = found.every((value, at) => Math.abs(value - expected[at]) <= 0.01 * Math.abs(expected[at]) + 1e-6);
    if (isSame && fast < slow) return;
  } catch (error) {
    console.info(`WebGPU is not used: ${error.message}`);
  }
  [ort, network, filter] = before;
}

// Milliseconds of the best of three steps on one image, and its depth.
async function clock() {
  const { height, width } = web;
  const image = Uint8Array.from({ length: height * width * 3 }, (_, at) => (at * 37) % 251);
  let best = Infinity, depth;
  for (let round = 0; round < 4; round++) {
    const begun = performance.now();
    depth = (await predict(image, zeros(web.state))).depth;
    if (round) best = Math.min(best, performance.now() - begun);
  }
  return [best, depth];
}

async function answer({ id, width, height, isStart, rgba }) {
  const begun = performance.now();
  if (isStart || size !== `${width}x${height}`) state = filterState = null;
  size = `${width}x${height}`;
  isStart = state === null;
  const image = fitImage(rgba, height, width, web.height, web.width);
  const predicted = await predict(image, state ?? zeros(web.state));
  state = predicted.state;
  const filtered = filter ? await smooth(image, predicted.depth) : null;
  const computedMs = performance.now() - begun;
  const [raw, steady] = [predicted.depth, filtered].map((depth) => depth && enlarge(depth, height, width));
  self.postMessage(
    {
      kind: "depth", id, width, height, claims: web.claims, model: web.name, isStart, raw, filtered: steady,
      computedMs, flicker: {},
    },
    [raw.buffer, ...(steady ? [steady.buffer] : [])],
  );
}

async function predict(image, state) {
  const inputs = { image: new ort.Tensor("uint8", image, [1, web.height, web.width, 3]) };
  for (const name of Object.keys(web.state)) inputs[`state_${name}`] = state[name];
  const outputs = await network.run(inputs);
  const after = Object.fromEntries(Object.keys(web.state).map((name) => [name, outputs[`next_${name}`]]));
  return { depth: Float32Array.from(await outputs.depth.getData()), state: after };
}

async function smooth(image, depth) {
  const dims = [1, web.height, web.width];
  const before = filterState ?? { ...zeros(web.filter_state), unit: new ort.Tensor("float32", unitOf(depth), [1, 2]) };
  const inputs = {
    image: new ort.Tensor("uint8", image, [...dims, 3]),
    raw: new ort.Tensor("float32", depth, dims),
    strength: new ort.Tensor("float32", [web.strength], [1]),
  };
  for (const name of Object.keys(web.filter_state)) inputs[`state_${name}`] = before[name];
  const outputs = await filter.run(inputs);
  filterState = Object.fromEntries(
    Object.keys(web.filter_state).map((name) => [name, outputs[`next_${name}`] ?? before[name]]),
  );
  return Float32Array.from(outputs.depth.data);
}

// What the filter takes for 0 and for 1 in a video, from its first frame: ops/filter_step.py has the rule.
function unitOf(depth) {
  const stride = Math.max(1, Math.floor(depth.length / 50000)), values = [];
  for (let at = 0; at < depth.length; at += stride) {
    if (isMeasured(depth[at], web.claims)) values.push(depth[at]);
  }
  if (!values.length) return Float32Array.of(0, 1);
  const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
  if (isDepth(web.claims)) return Float32Array.of(0, Math.exp(mean(values.map(Math.log))));
  const sorted = Float64Array.from(values).sort(), offset = quantile(sorted, 0.01);
  const least = 1e-6 * sorted.reduce((most, value) => Math.max(most, Math.abs(value)), 0) + 1e-12;
  return Float32Array.of(offset, Math.max(mean(values) - offset, least));
}

function zeros(described) {
  return Object.fromEntries(
    Object.entries(described).map(([name, { shape, dtype }]) => {
      const length = shape.reduce((product, side) => product * side, 1);
      return [name, new ort.Tensor(dtype, new TYPES[dtype](length), shape)];
    }),
  );
}

function enlarge(depth, height, width) {
  // What is no depth is not blended with others.
  const safe = isDepth(web.claims) ? depth.map((value) => (value > 0 ? value : NaN)) : depth;
  return resizeDepth(safe, web.height, web.width, height, width);
}
