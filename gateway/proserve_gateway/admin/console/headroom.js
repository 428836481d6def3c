// What each class may count on of a pool's engine time, and who uses it.

import { byId, element, percent } from "./dom.js";
import { classStyle } from "./gain.js";

export function showHeadroom(pools) {
  const rows = Object.entries(pools).flatMap(([pool, uses]) => uses.map((use) => row(pool, use)));
  byId("headroom-card").hidden = rows.length === 0;
  byId("headroom").replaceChildren(
    element("thead", {}, element("tr", {}, ...["pool", "class", "mode", "engine time of the last seconds"].map((text) => element("th", {}, text)),
      ...["held", "used", "lent", "borrowed"].map((text) => element("th", { class: "number" }, text)))),
    element("tbody", {}, ...rows));
}

function row(pool, use) {
  const bar = element("span", { class: `share ${classStyle(use.priority_class)}`, role: "img", "aria-label": `holds ${percent(use.held)}, uses ${percent(use.used)}` },
    element("i", { class: "used" }), use.held > 0 ? element("i", { class: "held", title: `holds ${percent(use.held)}` }) : null);
  bar.children[0].style.width = `${100 * Math.min(1, use.used)}%`;
  if (use.held > 0) bar.children[1].style.left = `${100 * Math.min(1, use.held)}%`;
  return element("tr", {},
    element("td", {}, pool),
    element("td", { class: classStyle(use.priority_class) }, element("i", { class: "dot" }), use.priority_class),
    element("td", {}, use.mode ?? "–"),
    element("td", { class: "wide" }, bar),
    ...[use.held, use.used, use.lent, use.borrowed].map((value) => element("td", { class: "number" }, percent(value))));
}
