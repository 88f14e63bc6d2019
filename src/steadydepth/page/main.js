// The page: its tabs, and the live view. On a server it also has jobs; without one depth is computed right here.

import { find } from "./dom.js";
import { LiveView, nameModel, showFilters } from "./live.js";

const isLocal = document.documentElement.dataset.runs === "browser";

export function say(text, isBad = false) {
  // The same words once more would be read aloud once more.
  if (find("message").textContent !== text) find("message").textContent = text;
  find("message").classList.toggle("bad", isBad);
}

const { LocalDepth } = isLocal ? await import("./local.js") : {};
const server = isLocal ? null : await import("./server.js");
const live = new LiveView((options) => new (LocalDepth ?? server.ServerDepth)(options), say);

const tabs = [find("tab-live"), find("tab-jobs")];
function choose(tab) {
  for (const each of tabs) {
    const isChosen = each === tab;
    each.setAttribute("aria-selected", isChosen);
    each.tabIndex = isChosen ? 0 : -1;
    find(each.getAttribute("aria-controls")).hidden = !isChosen;
  }
}
// What a user chose is there again after the page was loaded anew.
function chooseAndKeep(tab) {
  choose(tab);
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
}
for (const tab of tabs) tab.addEventListener("click", () => chooseAndKeep(tab));
find("tabs").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  const shown = tabs.filter((tab) => !tab.hidden);
  const next = shown[(shown.indexOf(document.activeElement) + 1) % shown.length];
  next.focus();
  chooseAndKeep(next);
});

let jobs = null;
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragenter" || kind === "dragover");
    if (kind !== "drop" || !event.dataTransfer.files.length) return;
    if (!find("live").hidden) live.openFiles(event.dataTransfer.files);
    else jobs?.upload(event.dataTransfer.files);
  });
}

async function greet() {
  const known = await server.askJson("v1/models");
  find("sign-in").hidden = true;
  find("model").textContent = nameModel(known.model, known.claims);
  showFilters(known.filters);
  say("");
  if (!(await server.askJson("page.json")).trains) return;
  const { JobsView } = await import("./jobs.js");
  jobs ??= new JobsView(await server.askJson("v1/jobs/kinds"), say);
  find("tab-jobs").hidden = false;
  if (location.hash === "#jobs") choose(find("tab-jobs"));
  await jobs.refresh();
}

async function begin() {
  try {
    await greet();
  } catch (error) {
    if (error.status === 401 || error.status === 403) {
      find("sign-in").hidden = false;
      const unknown = server.token.get() ? "That token is not known." : "This server asks for a token.";
      say(error.status === 403 ? error.message : unknown);
      server.token.set("");
    } else say(error.message, true);
  }
}

if (isLocal) {
  find("model").textContent = "runs in this browser";
} else {
  find("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    server.token.set(find("token").value.trim());
    find("token").value = "";
    begin();
  });
  await begin();
}
document.documentElement.dataset.ready = "yes";
