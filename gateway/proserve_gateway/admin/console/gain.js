// Gain per class: tiles for a window of time, and a curve over the last hour.

import { byId, clock, element, number, percent, piece, svg, words } from "./dom.js";

const WIDTH = 1200, HEIGHT = 240, LEFT = 42, RIGHT = 12, TOP = 12, BOTTOM = 24;
const POINTS = 180;

let windowName = "5m";
let last = null;

// A class keeps its colour wherever it is shown.
const order = [];
export function classStyle(name) {
  if (!order.includes(name)) order.push(name);
  return `class-${order.indexOf(name) % 6}`;
}

export function showGain(reply) {
  last = reply;
  showWindows(reply);
  const classes = Object.keys(reply.windows.all);
  classes.forEach(classStyle);
  byId("classes").replaceChildren(...classes.map((name) => tile(name, reply.windows[windowName][name])));
  byId("legend").replaceChildren(
    ...classes.map((name) => element("span", { class: classStyle(name) }, element("i", { class: "dot" }), name)),
  );
  showChart(reply, classes);
}

function showWindows(reply) {
  byId("windows").replaceChildren(
    ...Object.keys(reply.windows).map((name) =>
      element("button", {
        type: "button",
        "aria-pressed": String(name === windowName),
        onclick: () => { windowName = name; showGain(last); },
      }, name),
    ),
  );
}

function tile(name, gain) {
  const some = gain.earnable > 0;
  const causes = Object.entries(gain.lost).filter(([, lost]) => lost > 0).sort((a, b) => b[1] - a[1]);
  return element("article", { class: `tile ${classStyle(name)}` },
    element("h3", {}, element("i", { class: "dot" }), name),
    element("p", { class: "figure" }, some ? percent(gain.tdg_ratio) : "–",
      element("small", {}, some ? "of the gain that could be earned" : "nothing ended")),
    element("dl", {},
      element("div", {}, element("dt", {}, "SLO met"), element("dd", {}, gain.requests ? percent(gain.slo_attainment) : "–")),
      element("div", {}, element("dt", {}, "requests"), element("dd", {}, number(gain.requests))),
      element("div", {}, element("dt", {}, "tokens"), element("dd", {}, number(gain.tokens)))),
    element("div", { class: "loss", role: "img", "aria-label": `earned and lost gain of ${name}` },
      some ? piece("earned", gain.earned / gain.earnable, `earned ${percent(gain.tdg_ratio)}`) : null,
      ...causes.map(([cause, lost]) =>
        piece(`cause-${cause}`, lost / gain.earnable, `${words(cause)} ${percent(lost / gain.earnable)}`))),
    element("ul", { class: "causes" },
      ...causes.slice(0, 3).map(([cause, lost]) =>
        element("li", {}, element("i", { class: `dot cause-${cause}` }), `${words(cause)} ${percent(lost / gain.earnable)}`))));
}

// Sums of neighbouring intervals, so that a curve has at most POINTS points and few requests make no saw.
function curve(series) {
  const width = Math.max(1, Math.ceil(series.earnable.length / POINTS));
  const found = [];
  for (let at = 0; at < series.earnable.length; at += width) {
    let earned = 0, earnable = 0;
    for (let i = at; i < Math.min(at + width, series.earnable.length); i++) {
      earned += series.earned[i];
      earnable += series.earnable[i];
    }
    found.push({ at: Math.min(at + width, series.earnable.length) - 1, share: earnable > 0 ? earned / earnable : null });
  }
  return found;
}

function showChart(reply, classes) {
  const times = reply.ends_unix_s;
  const chart = byId("chart");
  if (times.length < 2) {
    chart.replaceChildren(element("p", { class: "empty" }, "The curve begins with the second interval of 5 s."));
    return;
  }
  const start = times[0], span = times.at(-1) - start;
  const x = (time) => LEFT + ((time - start) / span) * (WIDTH - LEFT - RIGHT);
  const y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const parts = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share) }));
    parts.push(svg("text", { class: "axis", x: LEFT - 8, y: y(share) + 4, "text-anchor": "end" }, percent(share, 0)));
  }
  for (let tick = 0; tick <= 4; tick++) {
    const time = start + (span * tick) / 4;
    const anchor = tick === 0 ? "start" : tick === 4 ? "end" : "middle";
    parts.push(svg("text", { class: "axis", x: x(time), y: HEIGHT - 6, "text-anchor": anchor }, clock(time)));
  }
  const curves = classes.map((name) => ({ name, points: curve(reply.series[name]) }));
  for (const { name, points } of curves) {
    let path = "", pen = false;
    for (const { at, share } of points) {
      if (share === null) { pen = false; continue; }
      path += `${pen ? "L" : "M"}${x(times[at]).toFixed(1)} ${y(share).toFixed(1)}`;
      pen = true;
    }
    parts.push(svg("g", { class: classStyle(name), "data-class": name }, svg("path", { d: path })));
  }
  const cursor = svg("g", {});
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": "Share of gain earned per class over time",
    onmousemove: (event) => showCursor(event, picture, cursor, { times, curves, x, y }),
    onmouseleave: () => cursor.replaceChildren(),
  }, ...parts, cursor);
  chart.replaceChildren(picture);
}

function showCursor(event, picture, cursor, { times, curves, x, y }) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse()).x;
  const nearest = curves[0].points.reduce((best, point) =>
    Math.abs(x(times[point.at]) - at) < Math.abs(x(times[best.at]) - at) ? point : best);
  const left = x(times[nearest.at]);
  const known = curves
    .map(({ name, points }) => ({ name, share: points.find((point) => point.at === nearest.at).share }))
    .filter(({ share }) => share !== null);
  const right = left > WIDTH / 2;
  cursor.replaceChildren(
    svg("line", { class: "cursor", x1: left, x2: left, y1: TOP, y2: HEIGHT - BOTTOM }),
    ...known.map(({ name, share }) => svg("g", { class: classStyle(name) }, svg("circle", { cx: left, cy: y(share), r: 4 }))),
    ...[clock(times[nearest.at]), ...known.map(({ name, share }) => `${name} ${percent(share)}`)].map((text, row) =>
      svg("text", { class: "tip", x: left + (right ? -10 : 10), y: TOP + 14 + 16 * row, "text-anchor": right ? "end" : "start" }, text)),
  );
}
