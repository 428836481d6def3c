// Asks the admin port again and again, and shows what it says.

import { byId, clock, element, words } from "./dom.js";
import { engineDecisions, explanation, showDecisions } from "./decisions.js";
import { showStatus } from "./engines.js";
import { showGain } from "./gain.js";
import { showHeadroom } from "./headroom.js";

const EVERY_MS = 2000;
const CAUSES = ["shed", "late_first_token", "late_token_queued", "late_token_preempted", "late_token_batched", "engine_failure", "client_cancel"];

async function ask(path) {
  const reply = await fetch(path, { signal: AbortSignal.timeout(5000), cache: "no-store" });
  if (!reply.ok) {
    const said = await reply.json().catch(() => null);
    throw new Error(said?.error?.message ?? `${path}: status ${reply.status}`);
  }
  return reply.json();
}

function decisionsPath() {
  const asked = new URLSearchParams({ limit: "25" });
  for (const name of ["class", "cause"]) {
    if (byId(`filter-${name}`).value) asked.set(name, byId(`filter-${name}`).value);
  }
  return `/decisions?${asked}`;
}

async function refresh() {
  try {
    const [status, gain, decisions] = await Promise.all([ask("/status"), ask("/gain"), ask(decisionsPath())]);
    offerClasses(Object.keys(gain.windows.all));
    showStatus(status);
    showGain(gain);
    showHeadroom(status.headroom);
    showDecisions(decisions.requests, explain);
    byId("updated").textContent = `as of ${clock(Date.now() / 1000)}`;
    byId("updated").className = "dim";
  } catch (error) {
    byId("updated").textContent = `not up to date: ${error.message}`;
    byId("updated").className = "late";
  }
}

function offerClasses(names) {
  const select = byId("filter-class");
  const known = new Set([...select.options].map((option) => option.value));
  select.append(...names.filter((name) => !known.has(name)).map((name) => element("option", { value: name }, name)));
}

async function explain(id) {
  const dialog = byId("explanation");
  byId("explanation-title").textContent = `Request ${id}`;
  try {
    const request = await ask(`/decisions/${encodeURIComponent(id)}`);
    byId("explanation-body").replaceChildren(...explanation(request));
    for (const engine of new Set((request.attempts ?? []).map((attempt) => attempt.engine))) addEngine(id, engine);
  } catch (error) {
    byId("explanation-body").replaceChildren(element("p", { class: "late" }, error.message));
  }
  if (!dialog.open) dialog.showModal();
}

async function addEngine(id, engine) {
  const reply = await fetch(`/engine-decisions/${encodeURIComponent(id)}?engine=${encodeURIComponent(engine)}`).catch(() => null);
  if (reply?.ok && byId("explanation-title").textContent.endsWith(id)) {
    byId("explanation-body").append(...engineDecisions(engine, await reply.json()));
  }
}

async function run() {
  // A page that nobody looks at asks nothing.
  if (!document.hidden) await refresh();
  setTimeout(run, EVERY_MS);
}

byId("filter-cause").append(...CAUSES.map((cause) => element("option", { value: cause }, words(cause))));
for (const name of ["class", "cause"]) byId(`filter-${name}`).addEventListener("change", refresh);
byId("close").addEventListener("click", () => byId("explanation").close());
byId("explanation").addEventListener("click", (event) => { if (event.target === event.currentTarget) event.currentTarget.close(); });
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("find-id").value.trim();
  if (id) explain(id);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
run();
