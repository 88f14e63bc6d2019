// The live view: frames of a source beside their depth, raw and filtered, and what it costs.

import { colourDepth, followRange } from "./colours.js";
import { fillSelect, find } from "./dom.js";
import { ImageSource, VideoSource } from "./source.js";

const RECENT = 40; // frames that rates and latencies are of
const CLAIMS = {
  metric: "metric depth", scale: "depth up to scale", affine: "depth up to scale and shift",
  disparity: "disparity up to scale and shift",
};

export function nameModel(model, claims) {
  return `${model}, ${CLAIMS[claims]}`;
}

export class LiveView {
  // `open` makes what predicts, of {withFilter, onResult, onState}; `say` shows a line to the user.
  constructor(open, say) {
    this.open = open;
    this.say = say;
    find("camera").addEventListener("click", () => this.begin((onFrame) => VideoSource.ofCamera(onFrame)));
    find("files").addEventListener("change", (event) => {
      this.openFiles(event.target.files);
      event.target.value = "";
    });
    find("stop").addEventListener("click", () => this.stop());
    for (const id of ["with-filter", "filter"]) {
      find(id).addEventListener("change", () => this.source && this.begin(this.makeSource));
    }
  }

  openFiles(files) {
    const images = [...files].filter((file) => file.type.startsWith("image/"));
    if (images.length) this.begin(async () => this.imagesOf(images));
    else if (files.length) this.begin(async (onFrame) => new VideoSource(files[0], onFrame));
  }

  imagesOf(files) {
    return new ImageSource(files, {
      onFrame: (image, at) => this.takeEach(image, at),
      onFault: (text) => this.say(text, true),
      onEnd: () => this.depth?.close(), // what was shown stays
    });
  }

  async begin(makeSource) {
    this.stop();
    this.say("");
    const turn = this.turn; // another one, once something else was begun meanwhile
    try {
      this.makeSource = makeSource;
      const source = await makeSource((element, at) => this.takeNewest(element, at));
      if (turn !== this.turn) return source.close();
      this.source = source;
      this.prepare();
      await this.source.start();
    } catch (error) {
      if (turn !== this.turn) return;
      this.stop();
      const reasons = { NotAllowedError: "the camera may not be used", NotFoundError: "there is no camera" };
      this.say(reasons[error.name] ?? error.message, true);
    }
  }

  prepare() {
    const withFilter = find("with-filter").checked;
    Object.assign(this, { dropped: 0, shown: 0, range: null, latencies: [], times: [], isStart: true, drawn: null, whenShown: null });
    this.depth = this.open({
      withFilter,
      filter: find("filter").value,
      onResult: (result, facts) => this.show(result, facts),
      onState: (text) => this.say(text, false),
    });
    for (const id of ["views", "figures", "legend"]) find(id).hidden = false;
    find("invitation").hidden = true;
    find("filtered-figure").hidden = !withFilter;
    find("stop").disabled = false;
    for (const id of ["raw-strip", "filtered-strip"]) find(id).width = 320;
  }

  stop() {
    this.turn = (this.turn ?? 0) + 1;
    this.source?.close();
    this.depth?.close();
    this.source = this.depth = null;
    find("stop").disabled = true;
  }

  // Of a live source: the newest frame, or none while too many are on their way.
  takeNewest(element, at) {
    if (!this.depth) return;
    if (!this.depth.isFree) {
      this.dropped++;
      this.showFigures();
      return;
    }
    this.take(element, element.videoWidth, element.videoHeight, at);
  }

  // Of image files: each, one after another, once more where the connection was lost before its depth came.
  async takeEach(image, at) {
    let isLost = true;
    while (isLost) {
      while (this.depth && !this.depth.isFree) await new Promise((resolve) => setTimeout(resolve, 5));
      if (!this.depth) return;
      const done = new Promise((resolve) => (this.whenShown = resolve));
      this.take(image, image.width, image.height, at);
      isLost = await done;
    }
  }

  take(image, width, height, at) {
    const most = Number(find("side").value), share = most ? Math.min(1, most / Math.max(width, height)) : 1;
    const size = [Math.max(1, Math.round(width * share)), Math.max(1, Math.round(height * share))];
    const canvas = new OffscreenCanvas(...size);
    canvas.getContext("2d", { willReadFrequently: true }).drawImage(image, 0, 0, ...size);
    const isStart = this.isStart;
    this.isStart = false;
    this.depth.send(canvas, { canvas, at, isStart });
  }

  show(result, facts) {
    this.whenShown?.(facts.isLost);
    if (!this.depth) return;
    if (!result) {
      if (!this.whenShown || !facts.isLost) this.dropped++;
      return this.showFigures();
    }
    const now = performance.now();
    this.shown++;
    this.latencies.push(now - facts.at);
    this.times.push(now);
    this.latencies = this.latencies.slice(-RECENT);
    this.times = this.times.slice(-RECENT);
    find("computed").textContent = `${result.computedMs.toFixed(0)} ms`;
    find("model").textContent = nameModel(result.model, result.claims);
    for (const kind of ["raw", "filtered"]) {
      const flicker = result.flicker[kind];
      find(`${kind}-flicker`).textContent = flicker == null ? "" : `flicker ${flicker.toFixed(2)} %`;
    }
    this.showFigures();
    // Drawn when the screen is: more often is never seen.
    if (!this.drawn) requestAnimationFrame(() => this.draw());
    this.drawn = { result, canvas: facts.canvas };
    document.dispatchEvent(new CustomEvent("depth", { detail: result }));
  }

  draw() {
    const { result, canvas } = this.drawn ?? {};
    this.drawn = null;
    if (!result || !this.depth) return;
    const { width, height, raw, filtered, claims } = result;
    // One range for both, or what is compared are the colours.
    this.range = followRange(result.isStart ? null : this.range, filtered ?? raw, width, claims);
    sized(find("colour"), width, height).drawImage(canvas, 0, 0, width, height);
    for (const [id, depth] of [["raw", raw], ["filtered", filtered]]) {
      if (!depth) continue;
      const image = new ImageData(colourDepth(depth, this.range, claims), width, height);
      sized(find(id), width, height).putImageData(image, 0, 0);
      addColumn(find(`${id}-strip`), find(id));
    }
  }

  showFigures() {
    const spent = this.times.at(-1) - this.times[0];
    const sorted = [...this.latencies].sort((one, other) => one - other);
    find("rate").textContent = spent > 0 ? ((1e3 * (this.times.length - 1)) / spent).toFixed(1) : "-";
    find("latency").textContent = sorted.length ? `${sorted[sorted.length >> 1].toFixed(0)} ms` : "-";
    find("shown").textContent = this.shown;
    find("dropped").textContent = this.dropped;
  }
}

// The filters to choose from: the learned one, and those that were tuned on the server.
export function showFilters(names, titles = {}) {
  const tuned = names.filter((name) => name.startsWith("job-"));
  find("which-filter").hidden = !tuned.length;
  fillSelect(find("filter"), [["learned", "learned"], ...tuned.map((name) => [name, titles[name] ?? name])]);
}

function sized(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return canvas.getContext("2d");
}

// The middle column of a canvas as the newest column of a strip.
function addColumn(strip, canvas) {
  const context = strip.getContext("2d");
  context.drawImage(strip, -2, 0);
  context.drawImage(canvas, canvas.width >> 1, 0, 1, canvas.height, strip.width - 2, 0, 2, strip.height);
}
