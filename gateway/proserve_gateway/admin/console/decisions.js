// The last requests, and the whole story of one of them.

import { byId, clock, element, number, percent, seconds, words } from "./dom.js";
import { classStyle } from "./gain.js";

const HEADINGS = ["time", "request", "class", "tenant", "engine", "first token", "expected", "tokens", "gain", "lost to", "status"];
const NUMBERS = new Set(["first token", "expected", "tokens", "gain"]);

const sum = (lost) => Object.values(lost ?? {}).reduce((total, gain) => total + gain, 0);
const worst = (lost) => Object.entries(lost ?? {}).sort((a, b) => b[1] - a[1])[0]?.[0];

export function showDecisions(requests, explain) {
  const table = byId("decisions");
  if (!requests.length) {
    table.replaceChildren(element("tbody", {}, element("tr", {}, element("td", { class: "empty" }, "No request was routed yet, or none is like that."))));
    return;
  }
  table.replaceChildren(
    element("thead", {}, element("tr", {}, ...HEADINGS.map((text) => element("th", { class: NUMBERS.has(text) ? "number" : null }, text)))),
    element("tbody", {}, ...requests.map((request) => row(request, explain))));
}

function row(request, explain) {
  const attempts = request.attempts ?? [];
  const cause = worst(request.lost);
  const late = request.ttft_s !== undefined && request.ttft_s >= request.terms.objectives.ttft_s;
  return element("tr", {},
    element("td", {}, clock(request.arrived_unix_s)),
    element("td", {}, element("button", { type: "button", class: "link mono", title: `Explain ${request.id}`, onclick: () => explain(request.id) }, request.id.slice(0, 12))),
    element("td", { class: classStyle(request.terms.priority_class) }, element("i", { class: "dot" }), request.terms.priority_class),
    element("td", {}, request.tenant),
    element("td", {}, attempts.map((attempt) => attempt.engine).join(" → ") || "–"),
    element("td", { class: `number ${late ? "late" : ""}` }, request.ttft_s === undefined ? "–" : seconds(request.ttft_s)),
    element("td", { class: "number" }, attempts[0]?.expected_ttft_s === undefined ? "–" : seconds(attempts[0].expected_ttft_s)),
    element("td", { class: "number" }, number(request.output_tokens ?? 0)),
    element("td", { class: "number" }, share(request)),
    element("td", {}, cause ? words(cause) : "–"),
    element("td", {}, status(request)));
}

function share(request) {
  const earned = request.earned ?? 0, all = earned + sum(request.lost);
  return all > 0 ? percent(earned / all) : "–";
}

function status(request) {
  if (request.status === undefined) return "under way";
  return request.error ? `${request.status} ${words(request.error)}` : request.status === 499 ? "client left" : String(request.status);
}

// What the engines that had it say; those that don't publish capacity say nothing.
export function engineDecisions(name, reply) {
  const rows = reply.requests.flatMap((request) => request.decisions);
  if (!rows.length) return [];
  return [
    element("h3", {}, `What ${name} decided`),
    element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, element("th", { class: "number" }, "age"), element("th", {}, "decision"), element("th", {}, "why"), element("th", {}, "order"), element("th", { class: "number" }, "tokens"))),
      element("tbody", {}, ...rows.map((row) => element("tr", {},
        element("td", { class: "number" }, seconds(row.age_s)),
        element("td", {}, row.decision),
        element("td", { class: "wrap" }, row.taken_by ? `${row.reason}; taken by ${row.taken_by}` : row.reason),
        element("td", {}, [row.group, row.position ? `place ${row.position}` : null].filter(Boolean).join(", ") || "–"),
        element("td", { class: "number" }, `${row.tokens} of ${row.pending_tokens}`)))))),
  ];
}

export function explanation(request) {
  const { objectives, priority_class, weight } = request.terms;
  const attempts = request.attempts ?? [];
  const parts = [
    element("dl", { class: "facts" },
      ...Object.entries({
        "arrived": clock(request.arrived_unix_s),
        "tenant": request.tenant,
        "class": `${priority_class}, weight ${weight}`,
        "model, pool": `${request.model}, ${request.pool}`,
        "prompt": request.prompt_tokens === undefined ? `about ${request.expected_prompt_tokens} tokens` : `${request.prompt_tokens} tokens, expected ${request.expected_prompt_tokens}`,
        "answer": `${request.output_tokens ?? 0} tokens, expected ${Math.round(request.expected_output_tokens ?? 0)}${request.max_tokens === undefined ? "" : `, at most ${request.max_tokens}`}`,
        "first token": `${request.ttft_s === undefined ? "none yet" : seconds(request.ttft_s)}, due ${seconds(objectives.ttft_s)}`,
        "time per token": `${pace(request)}, due ${seconds(objectives.tpot_s)}`,
        "status": request.why ? `${status(request)}: ${request.why}` : status(request),
        "gain": `${number(request.earned ?? 0)} of ${number((request.earned ?? 0) + sum(request.lost))}`,
        "trace": request.trace_id || "–",
      }).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
    element("h3", {}, attempts.length > 1 ? "Engines, one after another" : "Engine"),
    ...(attempts.length ? attempts.map(engine) : [element("p", { class: "empty" }, "It waits for an engine.")]),
  ];
  const lost = Object.entries(request.lost ?? {}).sort((a, b) => b[1] - a[1]);
  if (lost.length) {
    parts.push(element("h3", {}, "Gain lost"),
      element("ul", { class: "causes" }, ...lost.map(([cause, gain]) => element("li", {}, element("i", { class: `dot cause-${cause}` }), `${words(cause)}: ${number(gain)}`))));
  }
  return parts;
}

function pace(request) {
  const tokens = (request.output_tokens ?? 0) / (request.choices ?? 1);
  return tokens > 1 && request.last_token_s !== undefined ? seconds((request.last_token_s - request.ttft_s) / (tokens - 1)) : "–";
}

function engine(attempt) {
  const others = attempt.alternatives ?? [];
  const expected = [
    attempt.expected_ttft_s === undefined ? null : `first token after ${seconds(attempt.expected_ttft_s)}`,
    attempt.expected_gain === undefined ? null : `gain ${number(attempt.expected_gain)}`,
  ].filter(Boolean).join(", ");
  const waited = attempt.waited_s >= 0.001 ? `, after waiting ${seconds(attempt.waited_s)}` : "";
  const failed = attempt.failure ? ` It failed (${words(attempt.failure)}) after ${attempt.tokens ?? 0} tokens.` : "";
  return element("div", {},
    element("p", {}, element("strong", {}, attempt.engine), attempt.served_as ? ` as class ${attempt.served_as}` : "", ` after ${seconds(attempt.sent_s)}${waited}: ${attempt.reason}.`, failed),
    expected ? element("p", { class: "dim" }, `Expected there: ${expected}.`) : null,
    others.length > 1 ? element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, element("th", {}, "engine weighed"), element("th", { class: "number" }, "expected first token"), element("th", { class: "number" }, "expected gain"))),
      element("tbody", {}, ...others.map((other) => element("tr", {},
        element("td", {}, other.engine === attempt.engine ? element("strong", {}, other.engine) : other.engine),
        element("td", { class: "number" }, other.expected_ttft_s === undefined ? "–" : seconds(other.expected_ttft_s)),
        element("td", { class: "number" }, other.expected_gain === undefined ? "–" : number(other.expected_gain))))))) : null);
}
