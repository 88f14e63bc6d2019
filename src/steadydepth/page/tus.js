// Uploads in pieces, by the tus protocol: after a lost connection, or with the same file again, it resumes where it was.

import { Refused, ask } from "./server.js";

const TUS = { "Tus-Resumable": "1.0.0" };
const LEAST = 1 << 18, MOST = 1 << 23; // bytes of a piece
const GOOD_S = 2; // that a piece takes, about
const PATIENCE = 40; // attempts in a row without a byte: about five minutes, in which a server has started again
const PASSING = [408, 409, 423, 429, 460, 500, 502, 503, 504]; // of HTTP, which may be over at the next attempt

// `onProgress` is called with the bytes that are there, and the address of the upload. When `signal` aborts, the upload
// is taken back from the server.
export async function sendFile(file, onProgress, signal) {
  const key = `upload ${file.name} ${file.size} ${file.lastModified}`;
  try {
    await sendAll(file, key, onProgress, signal);
  } catch (error) {
    if (!signal?.aborted) throw error;
    const place = localStorage.getItem(key);
    if (place) await insistOn(() => remove(place));
  }
  localStorage.removeItem(key);
}

async function sendAll(file, key, onProgress, signal) {
  const insist = (attempt) => insistOn(attempt, signal);
  let place = localStorage.getItem(key), offset = place && (await insist(() => offsetOf(place))), size = 1 << 20;
  if (offset == null) {
    // Sent again after an answer that was lost, it gives the same upload.
    const once = base64(crypto.getRandomValues(new Uint8Array(12)));
    place = await insist(() => create(file, once));
    offset = 0;
    localStorage.setItem(key, place);
  }
  const sendNext = async (isAgain) => {
    if (isAgain) {
      size = Math.max(LEAST, size >> 1);
      offset = (await offsetOf(place)) ?? offset;
    }
    onProgress(offset, place);
    if (offset === file.size) return;
    const begun = performance.now();
    offset = await sendPiece(place, file.slice(offset, offset + size), offset, signal);
    const took = (performance.now() - begun) / 1e3;
    size = Math.min(MOST, Math.max(LEAST, Math.round((size * GOOD_S) / Math.max(took, GOOD_S / 2))));
  };
  while (offset < file.size) await insist(sendNext);
  onProgress(offset, place);
}

// What `attempt` gives, tried again as long as it fails for a reason that may pass; it is told whether it is tried again.
async function insistOn(attempt, signal) {
  for (let failures = 0; ; ) {
    signal?.throwIfAborted();
    try {
      return await attempt(failures > 0);
    } catch (error) {
      // Of what the server refuses for good nothing gets better by sending it again.
      if (error instanceof Refused && !PASSING.includes(error.status)) throw error;
      if (++failures > PATIENCE) throw error;
      await new Promise((resolve) => setTimeout(resolve, Math.min(8000, 250 * 2 ** failures)));
    }
  }
}

async function create(file, once) {
  const bytes = new TextEncoder().encode(file.name.slice(-200));
  const headers = { ...TUS, "Upload-Length": file.size, "Upload-Metadata": `filename ${base64(bytes)},key ${btoa(once)}` };
  return (await ask("v1/uploads", { method: "POST", headers })).headers.get("Location");
}

// How many bytes are there; null where the upload has gone.
async function offsetOf(place) {
  try {
    return Number((await ask(place, { method: "HEAD", headers: TUS })).headers.get("Upload-Offset"));
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

async function remove(place) {
  await ask(place, { method: "DELETE", headers: TUS }).catch((error) => {
    if (error.status !== 404) throw error;
  });
}

async function sendPiece(place, piece, offset, signal) {
  const headers = { ...TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": offset };
  // Only secure pages may compute it; elsewhere the server's own look at the file has to do.
  if (crypto.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await piece.arrayBuffer()));
    headers["Upload-Checksum"] = `sha256 ${base64(digest)}`;
  }
  return Number((await ask(place, { method: "PATCH", headers, body: piece, signal })).headers.get("Upload-Offset"));
}

function base64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}
