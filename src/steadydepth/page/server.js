// The server: requests with the token of this tab, and depth of frames over a WebSocket.

const PROTOCOL = "steadydepth.v1";

export const token = {
  get: () => sessionStorage.getItem("token"),
  set: (value) => (value ? sessionStorage.setItem("token", value) : sessionStorage.removeItem("token")),
};

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// fetch, with the token, and what the server refuses as an error with its words.
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  const answer = await fetch(path, { ...options, headers }).catch(() => {
    throw new Error("no connection to the server");
  });
  if (!answer.ok) throw new Refused(answer.status, await reasonOf(answer));
  return answer;
}

export async function askJson(path, method = "GET", body = undefined) {
  const sent = body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await ask(path, { method, ...sent });
  return answer.status === 204 ? null : answer.json();
}

async function reasonOf(answer) {
  try {
    const { detail } = await answer.json();
    if (typeof detail === "string") return detail;
    return detail.map((fault) => `${fault.where.slice(1).join(".")}: ${fault.what}`).join("; ");
  } catch {
    return `the server answered ${answer.status}`;
  }
}

// One stream: JPEG frames in, depth out. It opens again by itself after the connection was lost.
class Stream {
  constructor(filter, onDepth, onState) {
    this.filter = filter;
    this.onDepth = onDepth;
    this.onState = onState;
    this.waiting = new Set(); // frames that are not answered yet
    this.window = 0; // frames that may be; none before the server says so
    this.wait = 250; // ms until the next attempt
    this.isOver = false;
    this.open();
  }

  open() {
    const place = new URL(`v1/stream?format=float16&filter=${this.filter}`, document.baseURI);
    place.protocol = place.protocol.replace("http", "ws");
    const offered = token.get() ? [PROTOCOL, `bearer.${token.get()}`] : [PROTOCOL];
    this.socket = new WebSocket(place, offered);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.hear(JSON.parse(data)) : this.take(data));
    this.socket.onclose = ({ reason }) => this.lost(reason);
  }

  lost(reason) {
    this.window = 0;
    const lost = [...this.waiting];
    this.waiting.clear();
    if (this.isOver) return;
    this.wasLost = true;
    for (const id of lost) this.onDepth(id, null, true);
    this.onState(reason || "no connection to the server; trying again");
    this.retry = setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(2 * this.wait, 5000);
  }

  hear(notice) {
    if (notice.type === "hello") {
      this.window = notice.window;
      this.wait = 250;
      if (this.wasLost) this.onState("");
    }
    if (notice.type === "refused") this.onState(notice.reason);
    this.waiting.delete(notice.id);
    if (notice.type === "skipped" || notice.type === "refused") this.onDepth(notice.id, null);
  }

  take(message) {
    const length = new DataView(message).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 4, length)));
    this.waiting.delete(header.id);
    // Behind a header of any length, so not where a Uint16Array may begin.
    const depth = halfFloats(new Uint16Array(message.slice(4 + length)), header.scale);
    this.onDepth(header.id, { header, depth });
  }

  get isFree() {
    return this.window > 0 && this.socket.readyState === WebSocket.OPEN && this.waiting.size < this.window;
  }

  send(id, jpeg) {
    const header = new TextEncoder().encode(JSON.stringify({ id, kind: "image" }));
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, header.length, true);
    this.waiting.add(id);
    this.socket.send(new Blob([length, header, jpeg]));
  }

  close() {
    this.isOver = true;
    clearTimeout(this.retry);
    this.socket.close();
  }
}

// Raw and filtered depth of the same frames, over a stream for each: the server puts both into one batch.
export class ServerDepth {
  constructor({ withFilter, filter, onResult, onState }) {
    this.onResult = onResult;
    this.pending = new Map(); // frame id to what came of it so far
    this.lastId = 0;
    const names = withFilter ? { raw: "none", filtered: filter } : { raw: "none" };
    this.streams = Object.entries(names).map(
      ([kind, filter]) => new Stream(filter, (id, answer, isLost) => this.collect(id, kind, answer, isLost), onState),
    );
  }

  get isFree() {
    return this.streams.every((stream) => stream.isFree);
  }

  // A frame as a canvas; its depth comes to onResult, or null when a newer one displaced it; with `isLost` among its
  // facts when the connection was lost.
  async send(canvas, facts) {
    const id = ++this.lastId;
    const jpeg = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
    if (!this.isFree) return this.onResult(null, Object.assign(facts, { isLost: true }));
    this.pending.set(id, { facts, missing: this.streams.length });
    for (const old of this.pending.keys()) if (old < id - 8) this.pending.delete(old);
    for (const stream of this.streams) stream.send(id, jpeg);
  }

  collect(id, kind, answer, isLost) {
    const held = this.pending.get(id);
    if (!held) return;
    held[kind] = answer;
    if (isLost) held.facts.isLost = true;
    if (--held.missing) return;
    this.pending.delete(id);
    const { raw, filtered, facts } = held;
    if (!raw || (this.streams.length === 2 && !filtered)) return this.onResult(null, facts);
    const { height, width, claims, start, computed_ms: computed, flicker, model } = raw.header;
    this.onResult(
      {
        id, height, width, claims, model, isStart: start, raw: raw.depth, filtered: filtered?.depth ?? null,
        computedMs: computed, flicker: { raw: flicker, filtered: filtered?.header.flicker },
      },
      facts,
    );
  }

  close() {
    this.onResult = () => {}; // what comes late is of no one who looks now
    for (const stream of this.streams) stream.close();
  }
}

// float16 to numbers, times a scale; NaN stays.
export function halfFloats(bits, scale) {
  const out = new Float32Array(bits.length);
  for (let at = 0; at < bits.length; at++) {
    const sign = bits[at] & 0x8000 ? -scale : scale, exponent = (bits[at] >> 10) & 31, fraction = bits[at] & 1023;
    if (exponent === 31) out[at] = fraction ? NaN : sign * Infinity;
    else out[at] = sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
  }
  return out;
}
