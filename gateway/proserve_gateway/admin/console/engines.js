// Readiness, and one row per engine.

import { byId, element, number, percent, seconds, words } from "./dom.js";

const HEADINGS = ["engine", "pool", "state", "policy", "sent", "running", "waiting", "KV cache", "step error", "heard from", "last error"];
const NUMBERS = new Set(["sent", "running", "waiting", "step error", "heard from"]);
const STATES = { ready: "good", starting: "", draining: "", half_open: "" };

export function showStatus(status) {
  const badge = byId("readiness");
  badge.textContent = status.ready ? "ready" : `not ready: ${status.missing.join("; ")}`;
  badge.title = badge.textContent;
  badge.className = status.ready ? "badge good" : "badge bad";
  const refused = byId("configuration-error");
  refused.hidden = !status.configuration_error;
  refused.textContent = `The newest configuration is refused, an older one is in force: ${status.configuration_error}`;
  const ready = status.engines.filter((engine) => engine.state === "ready").length;
  byId("engines-sum").textContent = `${ready} of ${status.engines.length} ready`;
  byId("engines").replaceChildren(
    element("thead", {}, element("tr", {}, ...HEADINGS.map((text) => element("th", { class: NUMBERS.has(text) ? "number" : null }, text)))),
    element("tbody", {}, ...status.engines.map(row)));
}

function row(engine) {
  return element("tr", {},
    element("td", { title: engine.url }, engine.name),
    element("td", {}, engine.pool),
    element("td", {}, element("span", { class: `badge ${STATES[engine.state] ?? "bad"}` }, words(engine.state))),
    element("td", {}, engine.policy ?? "–"),
    element("td", { class: "number" }, number(engine.in_flight)),
    element("td", { class: "number" }, number(engine.running)),
    element("td", { class: "number" }, number(engine.waiting)),
    element("td", {}, ...cache(engine)),
    element("td", { class: "number" }, engine.latency_error === null ? "–" : percent(engine.latency_error)),
    element("td", { class: "number" }, engine.poll_age_s === null ? "never" : `${seconds(engine.poll_age_s)} ago`),
    element("td", { class: "wrap" }, engine.last_error || "–"));
}

function cache(engine) {
  if (!engine.blocks) return ["–"];
  const used = 1 - engine.free_blocks / engine.blocks;
  const bar = element("span", { class: "meter" }, element("i", {}));
  bar.firstChild.style.width = `${100 * used}%`;
  return [bar, percent(used, 0)];
}
