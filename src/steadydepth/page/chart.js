// Curves of a training as one SVG: a line for each name, on a logarithmic axis.

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 640, HEIGHT = 220, LEFT = 52, RIGHT = 12, TOP = 26, BOTTOM = 26;

// `lines` is {name: [[step, value], ...]}; values that are not above 0 are left out.
export function drawChart(title, lines) {
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": title });
  const kept = Object.entries(lines).map(([name, points]) => [name, points.filter(([, value]) => value > 0)]);
  const points = kept.flatMap(([, each]) => each);
  if (!points.length) return svg;
  const steps = points.map(([step]) => step), logs = points.map(([, value]) => Math.log10(value));
  const [first, last, low, high] = [Math.min(...steps), Math.max(...steps), Math.min(...logs), Math.max(...logs)];
  const across = (step) => LEFT + ((step - first) / (last - first || 1)) * (WIDTH - LEFT - RIGHT);
  const up = (log) => HEIGHT - BOTTOM - ((log - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  for (const [step, anchor] of [[first, "start"], [last, "end"]]) {
    svg.append(text(across(step), HEIGHT - 8, anchor, step === last ? `step ${step}` : step));
  }
  for (const log of high > low ? [low, (low + high) / 2, high] : [low]) {
    svg.append(element("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: up(log), y2: up(log) }));
    svg.append(text(LEFT - 6, up(log) + 4, "end", (10 ** log).toPrecision(2)));
  }
  let place = LEFT;
  kept.forEach(([name, each], number) => {
    const path = each.map(([step, value]) => `${across(step).toFixed(1)},${up(Math.log10(value)).toFixed(1)}`);
    svg.append(element("polyline", { class: `line-${number}`, points: path.join(" ") }));
    const label = text(place, 14, "start", name);
    label.classList.add(`line-${number}`);
    svg.append(label);
    place += 8 * name.length + 20;
  });
  return svg;
}

function element(name, attributes) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function text(x, y, anchor, content) {
  const made = element("text", { x, y, "text-anchor": anchor });
  made.textContent = content;
  return made;
}
