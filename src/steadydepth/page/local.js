// Depth in the browser itself: a worker with ONNX Runtime Web, which `steadydepth export --to web` put beside this file.

export class LocalDepth {
  constructor({ withFilter, onResult, onState }) {
    this.onResult = onResult;
    this.facts = new Map();
    this.lastId = 0;
    this.isReady = false;
    onState("loading the model");
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onerror = (event) => onState(`the model does not run here: ${event.message}`);
    this.worker.onmessage = ({ data }) => {
      if (data.kind === "ready") {
        this.isReady = true;
        onState("");
      } else if (data.kind === "failed") {
        onState(`the model does not run here: ${data.reason}`);
      } else {
        const facts = this.facts.get(data.id);
        this.facts.delete(data.id);
        this.onResult(data, facts);
      }
    };
    this.worker.postMessage({ kind: "open", withFilter });
  }

  get isFree() {
    return this.isReady && this.facts.size < 2;
  }

  // A frame as a canvas. One waits while another is computed.
  send(canvas, facts) {
    const id = ++this.lastId;
    this.facts.set(id, facts);
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    this.worker.postMessage({ kind: "frame", id, width, height, isStart: facts.isStart, rgba: data }, [data.buffer]);
  }

  close() {
    this.worker.terminate();
  }
}
