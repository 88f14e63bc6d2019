// Images and depth resized by the rules of steadydepth/ops/resize.py, so that the page shows what predict writes.

// RGBA (h, w) to RGB (height, width): halved by exact means while it can be, then by area or bilinear.
export function fitImage(rgba, h, w, height, width) {
  let image = new Uint8Array(h * w * 3);
  for (let pixel = 0; pixel < h * w; pixel++) {
    image[3 * pixel] = rgba[4 * pixel];
    image[3 * pixel + 1] = rgba[4 * pixel + 1];
    image[3 * pixel + 2] = rgba[4 * pixel + 2];
  }
  while (halves(h, height) && halves(w, width)) {
    image = halved(image, h, w);
    h /= 2;
    w /= 2;
  }
  if (h === height && w === width) return image;
  const isMuchLarger = h >= 2 * height || w >= 2 * width;
  if (!isMuchLarger) return linearBytes(image, h, w, height, width);
  // Area grows nothing: along a side that is to be larger it is bilinear.
  const rows = (h < height ? linearWeights : areaWeights)(h, height);
  const columns = (w < width ? linearWeights : areaWeights)(w, width);
  return Uint8Array.from(separable(image, w, 3, rows, columns), Math.round);
}

// Bilinear in whole numbers, cut where OpenCV cuts them: a level less here and there, the same ones everywhere.
function linearBytes(image, h, w, height, width) {
  const out = new Uint8Array(height * width * 3);
  const whole = ([first, weights]) => [first, weights.map((weight) => Math.round(2048 * weight))];
  const across = linearWeights(w, width).map(whole);
  const line = (y) => {
    const values = new Int32Array(width * 3);
    across.forEach(([left, weights], x) => {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        weights.forEach((weight, step) => (sum += weight * image[(y * w + left + step) * 3 + channel]));
        values[3 * x + channel] = sum >> 4;
      }
    });
    return values;
  };
  const held = new Map();
  const lineOf = (y) => {
    if (!held.has(y)) held.set(y, line(y));
    return held.get(y);
  };
  for (let y = 0; y < height; y++) {
    const at = Math.fround(((y + 0.5) * h) / height - 0.5), top = Math.floor(at);
    const [, [above, below]] = whole([0, [1 - Math.fround(at - top), Math.fround(at - top)]]);
    // At the border one line is both: cut twice, it is not what it would be cut once.
    const first = lineOf(Math.max(0, top)), second = lineOf(Math.min(h - 1, top + 1));
    for (const old of held.keys()) if (old < top) held.delete(old);
    for (let place = 0; place < 3 * width; place++) {
      out[y * 3 * width + place] = (((above * first[place]) >> 16) + ((below * second[place]) >> 16) + 2) >> 2;
    }
  }
  return out;
}

// Float32 (h, w) to (height, width), bilinear; NaN where a value that counts is not finite.
export function resizeDepth(depth, h, w, height, width) {
  if (h === height && w === width) return depth;
  const rows = linearWeights(h, height), columns = linearWeights(w, width);
  if (depth.every(Number.isFinite)) return separable(depth, w, 1, rows, columns);
  const larger = separable(depth.map((value) => (Number.isFinite(value) ? value : 0)), w, 1, rows, columns);
  const counted = separable(depth.map((value) => (Number.isFinite(value) ? 1 : 0)), w, 1, rows, columns);
  return larger.map((value, pixel) => (counted[pixel] > 0.999 ? value / counted[pixel] : NaN));
}

function halves(size, target) {
  return size % 2 === 0 && size >= 2 * target;
}

function halved(image, h, w) {
  const out = new Uint8Array((h / 2) * (w / 2) * 3);
  let at = 0;
  for (let y = 0; y < h; y += 2) {
    for (let x = 0; x < w; x += 2) {
      for (let channel = 0; channel < 3; channel++) {
        const first = (y * w + x) * 3 + channel, below = first + 3 * w;
        out[at++] = (image[first] + image[first + 3] + image[below] + image[below + 3] + 2) >> 2;
      }
    }
  }
  return out;
}

// For each place of the result: the first place of the source that counts, and the weights from there on.
function linearWeights(from, to) {
  return Array.from({ length: to }, (_, place) => {
    const at = Math.fround(((place + 0.5) * from) / to - 0.5), low = Math.floor(at);
    if (low < 0) return [0, [1]];
    if (low >= from - 1) return [from - 1, [1]];
    return [low, [1 - (at - low), at - low]];
  });
}

function areaWeights(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, place) => {
    const start = place * scale, end = Math.min(from, start + scale), first = Math.floor(start + 1e-9);
    const weights = [];
    for (let at = first; at < end - 1e-9; at++) {
      weights.push((Math.min(end, at + 1) - Math.max(start, at)) / (end - start));
    }
    return [first, weights];
  });
}

function separable(source, w, channels, rows, columns) {
  const width = columns.length, out = new Float32Array(rows.length * width * channels);
  const line = new Float32Array(w * channels);
  rows.forEach(([top, down], y) => {
    line.fill(0);
    down.forEach((weight, step) => {
      const start = (top + step) * w * channels;
      for (let at = 0; at < line.length; at++) line[at] += weight * source[start + at];
    });
    columns.forEach(([left, across], x) => {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let step = 0; step < across.length; step++) sum += across[step] * line[(left + step) * channels + channel];
        out[(y * width + x) * channels + channel] = sum;
      }
    });
  });
  return out;
}
