// The page: opens an ECG, asks this server about it, and tells the answer; strip.js draws. The API key lives in `key`
// and nowhere else. Whatever came from a file or the server enters the page as text, never as markup.
import { clock, Strip } from "./strip.js";
import { FLAGS, STATUSES, told } from "./words.js";

const at = (id) => document.getElementById(id);
const SHOWN = 12; // rows of the table before "Show all"
let key = null, models = [], ecg = null, again = null, turn = 0;

const strip = new Strip(at("scroll"), at("sheet"), at("strip"), (zoom, least, most) => {
  at("zoom").textContent = `${Math.round(100 * zoom)}%`;
  document.querySelector("[data-do=out]").disabled = zoom <= least;
  document.querySelector("[data-do=in]").disabled = zoom >= most;
});

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// ---- asking the server

class Refused extends Error {
  constructor(problem, wait) {
    super(problem.code);
    Object.assign(this, { problem, wait });
  }
}

async function ask(path, options = {}) {
  if (key && !/^[\x21-\x7e]+$/.test(key)) throw new Refused({ code: "wrong_key" }); // no header can carry it
  const headers = { Accept: "application/json", ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused({ code: "unreachable" });
  }
  const kind = answer.headers.get("Content-Type") ?? "", problem = kind.startsWith("application/problem+json");
  const body = await answer.json().catch(() => null);
  if (answer.ok && body) return body;
  throw new Refused({ code: `http_${answer.status}`, ...(problem && body) }, answer.headers.get("Retry-After"));
}

// Do something that may fail, and tell how it went; only the latest thing asked for is told.
async function attempt(what, doing) {
  const mine = ++turn;
  again = () => attempt(what, doing);
  at("problem").replaceChildren();
  at("status").textContent = what;
  try {
    const said = await doing(() => mine === turn);
    if (mine === turn) at("status").textContent = said;
  } catch (error) {
    if (mine !== turn) return;
    at("status").textContent = "";
    tell(error);
  }
}

function tell(error) {
  const problem = error instanceof Refused ? error.problem : { code: "page", detail: String(error) };
  const { what, mend, retry, asks } = told(problem, error.wait);
  at("key").hidden = !asks;
  if (asks) at("secret").focus();
  if (asks && problem.code === "no_key") return; // the form says it
  const server = asks ? "" : [problem.detail, problem.mend].filter(Boolean).join("; ");
  const button = retry ? el("button", { type: "button" }, "Try again") : null;
  button?.addEventListener("click", () => again());
  at("problem").replaceChildren(
    el("p", {}, el("strong", {}, what)),
    ...(mend ? [el("p", {}, mend)] : []),
    ...(server ? [el("p", { class: "soft" }, `In the server’s words: ${server} (code ${problem.code}${problem.field ? `, field ${problem.field}` : ""}).`)] : []),
    ...(button ? [button] : []),
  );
  at("problem").scrollIntoView({ block: "nearest" });
  button?.focus(); // it may have been pressed, and was replaced
}

async function load() {
  const found = (await ask("v1/models")).models;
  models = found;
  at("key").hidden = true;
  at("model").replaceChildren(...models.map((m) => el("option", { value: `${m.name}@${m.version}` }, `${m.name}, version ${m.version}`)));
  at("model").selectedIndex = Math.max(0, models.findIndex((m) => m.default));
  at("models").hidden = false;
  describe();
  return "";
}

function describe() {
  const m = models[at("model").selectedIndex];
  const leads = m.leads.length === 12 ? "all twelve leads" : `lead ${m.leads.join(", ")}`;
  at("reads").textContent = `It reads ${leads}, ${m.seconds} seconds at a time, and estimates ${count(m.indicators.length, "indicator")}.`;
  at("untrained").hidden = m.trained;
}

const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// ecg: {name, body(): what fetch sends}
function estimate(chosen) {
  ecg = chosen;
  at("results").hidden = true;
  attempt(`Estimating from ${ecg.name} …`, async (wanted) => {
    if (!models.length) await load();
    const query = new URLSearchParams({ strip: "true", model: at("model").value });
    const answer = await ask(`v1/estimates?${query}`, { method: "POST", ...(await ecg.body()) });
    at("key").hidden = true;
    return wanted() ? show(answer) : "";
  });
}

// ---- opening files

function opened(files) {
  if (!files.length) return;
  at("csv").hidden = true;
  const csv = files.find((file) => /\.csv$/i.test(file.name));
  const header = files.find((file) => /\.hea$/i.test(file.name));
  if (csv && files.length === 1) askRate(csv);
  else estimate({ name: (header ?? files[0]).name.replace(/\.hea$/i, ""), body: () => form(files) });
}

function form(files, fields = {}) {
  const body = new FormData();
  for (const file of files) body.append("file", file, file.name);
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  return { body };
}

// A CSV does not tell its sampling rate, unless its first column is the time.
async function askRate(file) {
  turn += 1; // whatever was asked for before is no longer wanted
  at("problem").replaceChildren();
  at("status").textContent = "";
  at("results").hidden = true; // they are another ECG's
  const lines = (await file.slice(0, 20000).text().catch(() => "")).split(/\r?\n/).slice(0, -1);
  const rate = rateOf(lines);
  const known = rate > 0 && rate < Infinity;
  at("fs").value = known ? Number(rate.toPrecision(4)) : "";
  at("csv-told").textContent = known
    ? `${file.name}: the sampling rate follows from its column of times. Is it right, and in which unit are the samples?`
    : `${file.name}: a CSV does not say how fast it was sampled, nor in which unit. Whoever exported it knows.`;
  at("csv").hidden = false;
  at("csv").onsubmit = (event) => {
    event.preventDefault();
    const fields = { fs: at("fs").value, units: at("units").value };
    estimate({ name: file.name, body: () => form([file], fields) });
  };
  at("fs").focus();
}

const TIMES = { time: 1, t: 1, seconds: 1, sec: 1, time_s: 1, "time [s]": 1, "time (s)": 1, ms: 1000, time_ms: 1000 };

// Samples a second by the first column; NaN where it is no time. The mark between cells is found as the server finds it.
function rateOf([names = "", ...rows]) {
  const [mark] = [",", ";", "\t"].sort((a, b) => names.split(b).length - names.split(a).length);
  const first = (line) => line.split(mark)[0].replaceAll('"', "").trim();
  if (rows.length < 2) return NaN;
  const [from, to] = [rows[0], rows.at(-1)].map((line) => Number(first(line).replace(",", ".")));
  return (TIMES[first(names).toLowerCase()] * (rows.length - 1)) / (to - from);
}

// ---- telling the answer

function show(answer) {
  const { estimates, windows, model } = answer, scored = answer.status === "ok";
  const seconds = models[at("model").selectedIndex].seconds;
  at("results").hidden = false;
  at("results-title").textContent = `${scored ? "Estimates" : "No estimate"} from ${ecg.name}`;
  at("disclaimer").textContent = answer.disclaimer;
  at("origin").textContent = `Model ${model.name}, version ${model.version}, weights ${model.weights_sha256.slice(0, 12)}; request ${answer.id}.`;
  showWindows(windows, seconds);
  showStrip(answer.strip, windows, seconds);
  at("estimates").hidden = !scored;
  if (scored) showTable(estimates);
  at("results-title").focus({ preventScroll: true });
  at("status").scrollIntoView();
  const flagged = estimates.filter((e) => e.abnormal).length;
  if (!scored) return `No estimate: ${STATUSES[answer.status] ?? answer.status_detail ?? answer.status}.`;
  return `${count(estimates.length, "indicator")} estimated from ${answer.n_windows} of ${count(windows.length, "window")} of ${seconds} s; ${flagged || "none"} flagged.`;
}

const reasons = (window) => window.flags.filter((f) => f !== "uncalibrated").map((f) => FLAGS[f] ?? f).join(", ");

function showStrip(drawn, windows, seconds) {
  at("paper").hidden = !drawn;
  if (!drawn) return;
  const bad = windows.filter((w) => !w.usable);
  strip.show(drawn, bad.map((w) => ({ from: w.start, to: w.start + seconds, why: reasons(w) })));
  const length = drawn.signals[0].length / drawn.fs;
  at("strip").setAttribute("aria-label", `ECG of ${count(drawn.leads.length, "lead")} (${drawn.leads.join(", ")}), ${Math.round(10 * length) / 10} seconds.`);
}

function showWindows(windows, seconds) {
  const item = (w, what) => el("li", {}, `${clock(w.start)} to ${clock(w.start + seconds)}: ${what}`);
  const bad = windows.filter((w) => !w.usable), used = windows.length - bad.length;
  at("windows").replaceChildren(
    el("li", {}, used ? `${count(used, "window")} of ${seconds} seconds used.` : "No window could be used."),
    ...bad.map((w) => item(w, `not used: ${reasons(w)}.`)),
    ...(windows.some((w) => w.flags.includes("uncalibrated")) ? [el("li", {}, FLAGS.uncalibrated)] : []),
  );
}

// How far from where the model would change its mind; a value has no such place.
const sure = (e) => (e.probability === null ? (e.value === null ? -2 : -1) : Math.abs(e.probability - (e.threshold ?? 0.5)));

function showTable(estimates) {
  const rows = [...estimates].sort((a, b) => sure(b) - sure(a)).map(row);
  at("rows").replaceChildren(...rows);
  at("filter").value = "";
  at("find").hidden = rows.length <= SHOWN;
  at("all").textContent = `Show all ${rows.length}`;
  const cut = (all) => {
    const wanted = at("filter").value.trim().toLowerCase();
    rows.forEach((r, i) => { r.hidden = wanted ? !r.textContent.toLowerCase().includes(wanted) : !all && i >= SHOWN; });
    at("more").hidden = all || wanted || rows.length <= SHOWN;
  };
  at("filter").oninput = () => cut(false);
  at("all").onclick = () => { cut(true); rows[SHOWN].querySelector("th").focus(); };
  cut(false);
}

function row(e) {
  const soft = (...text) => el("span", { class: "soft" }, ...text);
  const direction = e.direction === "present" ? "" : `: ${e.direction}`;
  return el("tr", { role: "row", class: e.abnormal ? "flagged" : "" },
    el("th", { role: "rowheader", scope: "row", tabindex: "-1" }, e.name + direction, e.loinc ? soft(`LOINC ${e.loinc}`) : null),
    el("td", { role: "cell" }, ...(e.probability !== null ? probability(e, soft) : value(e, soft))),
    el("td", { role: "cell" }, ...skill(e, soft)));
}

function probability(e, soft) {
  const told = (p) => (e.calibrated ? percent(p) : p.toFixed(2));
  const flag = e.abnormal ? el("span", { class: `flag ${e.direction}` }, `flagged ${e.direction}`) : soft("not flagged");
  const bar = el("div", { class: "bar", "aria-hidden": "true" }, el("i"), ...(e.threshold === null ? [] : [el("u")]));
  bar.children[0].style.width = `${100 * e.probability}%`;
  if (e.threshold !== null) bar.children[1].style.left = `${100 * e.threshold}%`;
  const kind = e.calibrated ? "probability" : "score, not calibrated";
  const limit = e.threshold === null ? "no threshold" : `threshold\u00a0${told(e.threshold)}`;
  const figure = el("div", { class: "figure" }, el("b", {}, told(e.probability)), " ", e.abnormal === null ? "" : flag);
  return [figure, bar, soft(`${kind}; ${limit}`)];
}

function value(e, soft) {
  if (e.value === null) return [soft("no estimate")];
  const half = (e.upper - e.lower) / 2;
  const digits = half > 0 ? Math.min(4, Math.max(0, 1 - Math.floor(Math.log10(half)))) : 2;
  const told = (v) => v.toFixed(digits);
  const interval = e.lower === null ? "no interval" : `95% interval ${told(e.lower)} to ${told(e.upper)}`;
  return [el("div", { class: "figure" }, el("b", {}, told(e.value)), ` ${unit(e.unit)}`), soft(interval)];
}

function skill(e, soft) {
  if (e.auroc === null) return [e.tier ? el("span", { class: `tier ${e.tier}` }, e.tier) : null, soft("Not evaluated: how well is not known.")];
  const between = (say, to) => (e.auroc_low === null ? "" : ` (${say(e.auroc_low)}${to}${say(e.auroc_high)})`);
  const pairs = (a) => String(Math.round(100 * a));
  const what = e.direction === "present" ? "present from absent" : `${e.direction} from not ${e.direction}`;
  const chance = e.auroc_low !== null && e.auroc_low <= 0.5 ? " It was not shown to be better than guessing." : "";
  return [
    e.tier ? el("span", { class: `tier ${e.tier}` }, e.tier) : null,
    el("span", { class: "auroc" }, ` AUROC ${e.auroc.toFixed(2)}${between((a) => a.toFixed(2), "–")}`),
    soft(`On held-out patients it told ${what} in ${pairs(e.auroc)} of 100 pairs${between(pairs, " to ")}; guessing: 50.${chance}`),
  ];
}

function percent(p) {
  if (p < 0.005) return "below 1%";
  return p > 0.995 ? "above 99%" : `${Math.round(100 * p)}%`;
}

// UCUM as it is read: 10*3/uL is 10³/µL
function unit(code) {
  return (code === null || code === "1" ? "" : code)
    .replace(/10\*(\d+)/g, (_, n) => `10${[...n].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")}`)
    .replace(/\bu(?=[A-Za-z])/g, "µ").replace(/\[(\w+)\]/g, "$1").replace(/\{(\w+)\}/g, " $1");
}

// ---- what a person does

at("example").onclick = () => {
  at("csv").hidden = true;
  estimate({
    name: "the example, a made-up heart",
    body: async () => ({ body: JSON.stringify(await ask("v1/example")), headers: { "Content-Type": "application/json" } }),
  });
};
at("files").onchange = () => {
  opened([...at("files").files]);
  at("files").value = ""; // so that the same file can be chosen again
};
at("model").onchange = () => { describe(); if (ecg) estimate(ecg); };
at("key").onsubmit = (event) => {
  event.preventDefault();
  key = at("secret").value.trim();
  at("secret").value = "";
  again();
};
for (const button of document.querySelectorAll("[data-do]")) button.onclick = () => strip.do(button.dataset.do);
document.ondragover = (event) => { event.preventDefault(); document.body.classList.add("over"); };
document.ondragleave = (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); };
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const folder = [...event.dataTransfer.items].some((item) => item.webkitGetAsEntry()?.isDirectory);
  if (folder) attempt("", () => { throw new Refused({ code: "folder" }); });
  else opened([...event.dataTransfer.files]);
};
attempt("", load);
