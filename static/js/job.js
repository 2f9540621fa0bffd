// The job page stays true without a reload: numbers from events, everything else by asking the server for its regions.
import { follow } from "./live.js";
import { refreshRegions } from "./regions.js";
import { duration } from "./time.js";

const FINAL = new Set(["succeeded", "failed", "cancelled"]);
const THIN = "\u202f";
const grouped = (value) => Math.round(value).toLocaleString("en").replaceAll(",", THIN);
const FORMAT = {
  bytes: (v) => (v >= 1e9 ? `${(v / 1e9).toFixed(1)} GB` : `${Math.round(v / 1e6)} MB`),
  percent: (v) => `${Math.round(v)}%`,
  seconds: duration,
  integer: grouped,
  rate: (v) => v.toExponential(1).replace("e-", "e−"),
  number: (v) => (Math.abs(v) >= 100 ? grouped(v) : v.toPrecision(4).replace(/\.?0+$/, "")),
};

export function start() {
  for (const root of document.querySelectorAll("[data-live-job]:not([data-started])")) {
    root.dataset.started = "1";
    watch(root);
  }
}

function watch(root) {
  const id = root.dataset.liveJob;
  let state = root.dataset.state;
  if (FINAL.has(state)) return;
  const slots = (key) => document.querySelectorAll(`[data-live="${CSS.escape(key)}"]`);
  const say = (key, text) => slots(key).forEach((slot) => slot.textContent !== text && (slot.textContent = text));
  const clock = { at: 0, step: 0, eta: null };

  const progress = (event) => {
    const { step = 0, total = 0, unit = "step", phase = "", epoch } = event;
    say("phase", phase);
    say("steps", total ? `${unit} ${grouped(step)} of ${grouped(total)}` : step ? `${unit} ${grouped(step)}` : "");
    say("percent", total ? `${Math.floor((100 * step) / total)}%` : "");
    for (const bar of slots("bar")) {
      if (total) bar.value = Math.min(step / total, 1);
      else bar.removeAttribute("value");
    }
    if (epoch != null) say("epoch", epoch.toFixed(2));
    say("step", grouped(step));
    if ("eta_seconds" in event) clock.eta = event.eta_seconds;
    else if (total && step > clock.step && clock.at && event.at > clock.at) clock.eta = estimate(clock, event);
    if (event.at && (!clock.at || step < clock.step)) [clock.at, clock.step] = [event.at, step];
    clock.shown = performance.now();
    showEta();
  };

  const showEta = () => {
    if (clock.eta == null || FINAL.has(state)) return say("eta", "");
    const left = Math.max(0, clock.eta - (performance.now() - clock.shown) / 1000);
    say("eta", ` · ${duration(Math.round(left))} left`);
  };

  const metrics = (event) => {
    for (const [key, value] of Object.entries(event.values ?? {})) {
      for (const slot of slots(key)) {
        const format = FORMAT[slot.dataset.format] ?? FORMAT.number;
        if (Number.isFinite(value)) slot.textContent = format(value);
      }
    }
  };

  const log = (event) => {
    for (const list of slots("log")) {
      const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
      const line = document.createElement("span");
      line.className = `log-line log-${event.level ?? "info"}`;
      const time = document.createElement("span");
      time.className = "log-time";
      time.textContent = new Date((event.at ?? Date.now() / 1000) * 1000).toLocaleTimeString("en-GB");
      line.append(time, event.message ?? "");
      list.querySelector("[data-log-empty]")?.remove();
      list.append(line);
      while (list.childElementCount > 1000) list.firstElementChild.remove();
      if (follows) list.scrollTop = list.scrollHeight;
    }
  };

  let asked = 0;
  let asking = null;
  /** Ask for the regions at most once a second; the last wish is always granted. */
  const refresh = () => {
    if (asking) return;
    asking = setTimeout(async () => {
      asking = null;
      asked = performance.now();
      const page = await refreshRegions();
      const now = page?.querySelector(`[data-live-job="${id}"]`)?.dataset.state;
      if (now) settle(now);
      else if (!page) setTimeout(refresh, 3000);
    }, Math.max(0, 1000 - (performance.now() - asked)));
  };

  const settle = (now) => {
    if (now !== state) root.dispatchEvent(new CustomEvent("tuneloop:state", { bubbles: true, detail: now }));
    state = root.dataset.state = now;
    if (FINAL.has(state)) {
      clearInterval(ticking);
      showEta();
      stream.stop();
      const line = document.querySelector("[data-connection]");
      if (line) line.hidden = true;
    }
  };

  const stream = follow(id, {
    after: Number(root.dataset.after || 0),
    onEvents(events) {
      let changed = false;
      for (const event of events) {
        if (event.type === "progress") progress(event);
        else if (event.type === "metrics") metrics(event);
        else if (event.type === "log") log(event);
        // started, state, checkpoint, sample, done, stopped, failed, retry, …: the server knows how they look
        if (!["progress", "metrics", "log"].includes(event.type)) changed = true;
      }
      document.dispatchEvent(new CustomEvent("tuneloop:events", { detail: { id, events } }));
      if (changed) refresh();
    },
    onSkipped() {
      for (const figure of document.querySelectorAll("[data-chart]")) figure.dispatchEvent(new CustomEvent("tuneloop:reload"));
      refresh();
    },
    onConnection(connection) {
      const words = { connecting: "Connecting", live: "Live", polling: "Reconnecting, refreshed every 2 s", closed: "" };
      for (const line of document.querySelectorAll("[data-connection]")) {
        line.dataset.state = connection;
        line.textContent = words[connection];
        line.hidden = !words[connection];
      }
      if (connection === "live") refresh(); // what happened between rendering and connecting
    },
  });

  const ticking = setInterval(showEta, 1000);
  // Queued, leased, paused: such changes may come without an event, so look now and then.
  const looking = setInterval(() => (FINAL.has(state) ? clearInterval(looking) : document.hidden || refresh()), 5000);
  for (const list of document.querySelectorAll('[data-live="log"]')) list.scrollTop = list.scrollHeight;
}

/** Seconds left at the pace since the first event this page saw. */
function estimate(clock, event) {
  return ((event.total - event.step) * (event.at - clock.at)) / (event.step - clock.step);
}
