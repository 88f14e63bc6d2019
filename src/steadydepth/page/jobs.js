// Uploads and jobs: what is there, what is new, and the curves of what runs.

import { drawChart } from "./chart.js";
import { fillSelect, find, make } from "./dom.js";
import { nameModel, showFilters } from "./live.js";
import { Refused, askJson } from "./server.js";
import { sendFile } from "./tus.js";

const OVER = ["finished", "failed", "cancelled"];
const BAD = ["failed", "refused"];
const ENDS = [...OVER, ...BAD, "ready"]; // of jobs and of uploads
const EVERY_MS = 1000;

export class JobsView {
  constructor(kinds, say) {
    this.kinds = kinds;
    this.say = say;
    this.curves = new Map(); // job id to its lines so far
    this.rows = new Map(); // id to its row and what it shows
    this.sending = new Map(); // row key to a file on its way
    find("kind").replaceChildren(...Object.entries(kinds).map(([name, kind]) => new Option(kind.title, name)));
    find("kind").addEventListener("change", () => this.showKind());
    find("uploads-input").addEventListener("change", (event) => {
      this.upload(event.target.files);
      event.target.value = "";
    });
    find("order").addEventListener("submit", (event) => {
      event.preventDefault();
      // The second click of two that come at once orders nothing.
      if (!this.isStarting) this.doing(() => this.start());
    });
    // What is not in sight cannot say what is wrong with it.
    find("settings").addEventListener("invalid", () => (find("settings").parentElement.open = true), true);
    this.showKind();
    this.watch();
  }

  // Refreshes for as long as the page is open, each time some while after the last answer; not with a token that is
  // known no more: for too many of those the server answers nobody at this address.
  async watch() {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      if (!document.hidden && find("sign-in").hidden) await this.refresh().catch((error) => this.lost(error));
    }
  }

  lost(error) {
    const isUnknown = error.status === 401;
    find("sign-in").hidden = !isUnknown;
    if (isUnknown || !this.isLost) this.say(isUnknown ? "That token is not known." : `${error.message}; trying again`, true);
    this.isLost = true;
  }

  // Runs what a button asks for, and shows what the server says against it.
  async doing(act) {
    try {
      this.say("");
      await act();
      await this.refresh();
    } catch (error) {
      this.say(error.message, true);
    }
  }

  upload(files) {
    for (const file of files) {
      const key = `${file.name} ${performance.now()}`, stop = new AbortController();
      const cancel = () => stop.abort();
      const show = (sent, place) => {
        this.sending.set(key, { id: place?.split("/").at(-1), name: file.name, sent, size: file.size, cancel });
        this.showUploads();
      };
      show(0);
      const end = () => this.sending.delete(key);
      const fail = (error) => {
        throw error instanceof Refused ? error : new Error(`${file.name}: ${error.message}; choose the file again to resume`);
      };
      this.doing(() => sendFile(file, show, stop.signal).catch(fail).finally(end));
    }
  }

  // One after another: an answer that is late never takes the place of a newer one.
  refresh() {
    return (this.refreshing = (this.refreshing ?? Promise.resolve()).catch(() => {}).then(() => this.look()));
  }

  async look() {
    [this.uploads, this.jobs, this.models] = await Promise.all(
      ["v1/uploads", "v1/jobs", "v1/models"].map((path) => askJson(path)),
    );
    for (const job of this.jobs) await this.follow(job);
    if (this.isLost) this.say("");
    this.isLost = false;
    this.sayEnds();
    this.showUploads();
    this.showJobs();
    this.showModels();
    this.showFilters();
  }

  // What has ended since the last look, also for those who do not see the lists.
  sayEnds() {
    const all = [...this.uploads, ...this.jobs], before = this.states;
    this.states = new Map(all.map(({ id, state }) => [id, state]));
    const ended = before ? all.filter(({ id, state }) => ENDS.includes(state) && before.get(id) !== state) : [];
    if (!ended.length) return;
    const texts = ended.map(({ name, state, message }) => [name, state, message].filter(Boolean).join(": "));
    this.say(texts.join("; "), ended.some(({ state }) => BAD.includes(state)));
  }

  async follow(job) {
    const lines = this.curves.get(job.id) ?? [];
    const isOver = OVER.includes(job.state);
    if (job.state === "queued" || (isOver && lines.isOver)) return;
    const news = await askJson(`v1/jobs/${job.id}/curves?after=${lines.at(-1)?.step ?? 0}`);
    // A run that was lost takes its last steps again.
    const kept = news.length ? lines.filter((line) => line.step < news[0].step) : lines;
    this.curves.set(job.id, Object.assign([...kept, ...news], { isOver }));
  }

  showKind() {
    const kind = this.kinds[find("kind").value];
    find("settings").replaceChildren(...kind.settings.map(fieldOf));
  }

  showUploads() {
    const there = (this.uploads ?? []).map((upload) => [
      upload.id, upload,
      () => row(upload.name, upload.state, describe(upload), {
        Delete: () => this.remove(`v1/uploads/${upload.id}`, `Delete ${upload.name} from the server?`),
      }),
    ]);
    const coming = [...this.sending].map(([key, { name, sent, size, cancel }]) => [
      key, { sent }, () => row(name, "sending", "", { Cancel: cancel }, progress(`${name} sent`, sent, size)),
    ]);
    const ids = [...this.sending.values()].map(({ id }) => id);
    this.fill(find("uploads"), [...there.filter(([id]) => !ids.includes(id)), ...coming]);
    this.showChosen();
  }

  showChosen() {
    const before = new Map([...find("chosen").querySelectorAll("input")].map((tick) => [tick.value, tick.checked]));
    const ready = (this.uploads ?? []).filter((upload) => upload.state === "ready");
    if (ready.length && ready.length === before.size && ready.every((upload) => before.has(upload.id))) return;
    const ticks = ready.map(({ id, name }) =>
      make("label", {}, make("input", { type: "checkbox", value: id, checked: before.get(id) ?? true }), name),
    );
    const hint = ticks.length ? [] : ["None is ready yet."];
    find("chosen").replaceChildren(find("chosen").querySelector("legend"), ...ticks, ...hint);
  }

  showModels() {
    find("model").textContent = nameModel(this.models.model, this.models.claims);
    const finished = this.jobs.filter((job) => job.state === "finished" && job.kind !== "filter");
    const trained = finished.map((job) => [`job:${job.id}`, `of job ${job.name}`]);
    fillSelect(find("start-model"), [...this.served().map((name) => [name, name]), ...trained]);
  }

  // The models that the server was started with.
  served() {
    return this.models.models.filter((name) => !name.startsWith("job-"));
  }

  showFilters() {
    const tuned = this.jobs.filter((job) => job.kind === "filter");
    showFilters(this.models.filters, Object.fromEntries(tuned.map((job) => [`job-${job.id}`, `of job ${job.name}`])));
  }

  showJobs() {
    const rows = [...this.jobs].reverse().map((job) => {
      const lines = this.curves.get(job.id) ?? [], inService = this.models.model === `job-${job.id}`;
      return [job.id, { ...job, n: lines.length, inService }, () => this.rowOf(job, lines, inService)];
    });
    this.fill(find("job-list"), rows);
  }

  rowOf(job, lines, inService) {
    const act = (path) => () => this.doing(() => askJson(`v1/jobs/${job.id}/${path}`, "POST"));
    const acts = {};
    if (job.state === "queued" || job.state === "running") acts.Cancel = act("cancel");
    if (job.state === "cancelled" || job.state === "failed") acts.Resume = act("resume");
    if (job.state === "finished" && job.kind !== "filter") {
      acts.Report = () => this.doing(() => this.openLink(job, "report"));
      if (!inService) acts["Put into service"] = act("serve");
      else for (const model of this.served()) acts[`Put ${model} back`] = () => this.doing(() => putBack(model));
    }
    if (job.state === "finished") acts.Download = () => this.doing(() => this.openLink(job, "model"));
    if (OVER.includes(job.state) && !inService) {
      acts.Delete = () => this.remove(`v1/jobs/${job.id}`, `Delete the job ${job.name}, with what it trained and its report?`);
    }
    const steps = job.settings["optim.steps"] ?? job.settings.steps ?? job.settings.batches, isDone = job.state === "finished";
    const step = isDone ? steps : lines.at(-1)?.step ?? 0;
    const words = [this.kinds[job.kind].title, `from ${job.model}`];
    if (steps && job.state !== "queued") words.push(`step ${step} of ${steps}`);
    // Of its steps the curve says more.
    if (job.state === "running" && !/^(step|batch) /.test(job.doing)) words.push(job.doing || "preparing");
    if (inService) words.push("in service");
    if (job.message) words.push(job.message);
    const parts = [];
    if (job.state === "running" && steps) parts.push(progress(`${job.name} trained`, step, steps));
    if (lines.length > 1) parts.push(drawChart(`losses of ${job.name}`, curvesOf(lines)));
    return row(job.name, job.state, words.join(" · "), acts, ...parts);
  }

  remove(path, question) {
    if (confirm(question)) this.doing(() => askJson(path, "DELETE"));
  }

  // Links send no token: a ticket for this one job takes its place.
  async openLink(job, what) {
    const { ticket } = await askJson(`v1/jobs/${job.id}/ticket`, "POST");
    const href = `v1/jobs/${job.id}/${what}?ticket=${ticket}`;
    make("a", { href, target: "_blank", rel: "noopener" }).click();
  }

  async start() {
    const kind = find("kind").value, settings = {};
    for (const field of find("settings").querySelectorAll("[name]")) {
      settings[field.name] = field.type === "number" ? Number(field.value) : field.value;
    }
    const uploads = [...find("chosen").querySelectorAll("input:checked")].map((tick) => tick.value);
    const order = { kind, model: find("start-model").value, name: find("name").value, uploads, settings };
    this.isStarting = true;
    await askJson("v1/jobs", "POST", order).finally(() => (this.isStarting = false));
  }

  // Rows that have changed are made anew; the others stay, and with them the focus.
  fill(list, rows) {
    const wanted = rows.map(([id, facts, make]) => {
      const text = JSON.stringify(facts), held = this.rows.get(id);
      if (held?.text === text) return held.element;
      const element = make();
      const isFocused = held?.element.contains(document.activeElement);
      const label = isFocused && document.activeElement.textContent;
      held?.element.replaceWith(element);
      this.rows.set(id, { text, element });
      if (isFocused) [...element.querySelectorAll("button")].find((button) => button.textContent === label)?.focus();
      return element;
    });
    for (const element of [...list.children]) if (!wanted.includes(element)) element.remove();
    wanted.forEach((element, at) => list.children[at] !== element && list.insertBefore(element, list.children[at] ?? null));
  }
}

function putBack(model) {
  return askJson("v1/models/current", "PUT", { model });
}

function describe(upload) {
  if (upload.state === "receiving") return `${share(upload.received, upload.size)} is there; choose the file again to resume`;
  if (upload.state === "ready") return upload.sequences.length === 1 ? "1 sequence" : `${upload.sequences.length} sequences`;
  return upload.message;
}

function share(part, all) {
  return `${Math.floor((100 * part) / all)} %`;
}

function curvesOf(lines) {
  const names = ["absolute", "relative", "error", "flicker"].filter((name) => lines.some((line) => line[name] > 0));
  return Object.fromEntries(names.map((name) => [`${name} loss`, lines.map((line) => [line.step, line[name]])]));
}

function row(name, state, words, acts, ...parts) {
  const buttons = Object.entries(acts).map(([text, act]) => {
    const button = make("button", { type: "button", ariaLabel: `${text}: ${name}` }, text);
    button.addEventListener("click", act);
    return button;
  });
  const mark = make("span", { className: `state ${state}` }, state);
  const head = make("div", { className: "head" }, make("strong", {}, name), mark, make("div", { className: "acts" }, ...buttons));
  return make("li", {}, head, make("p", {}, words), ...parts);
}

function progress(label, value, max) {
  return make("progress", { value, max, ariaLabel: label });
}

function fieldOf(setting) {
  if (setting.choices.length) {
    const select = make("select", { name: setting.key }, ...setting.choices.map((choice) => new Option(choice, choice)));
    select.value = setting.default;
    return make("label", {}, setting.label, select);
  }
  const input = make("input", {
    type: "number", name: setting.key, min: setting.least, max: setting.most, step: setting.is_whole ? 1 : "any",
    value: setting.default, required: true,
  });
  return make("label", {}, setting.label, input);
}
