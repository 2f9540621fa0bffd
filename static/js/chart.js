// <figure data-chart data-url="…/metrics/" data-keys="loss,eval_loss">: uPlot in the page's colours, live, resizable, with
// a table for those who cannot see it. Needs {"series": {key: {"steps": […], "values": […]}}} from the URL.
const here = (path) => new URL(path, import.meta.url).href;
const COLOURS = ["--chart-1", "--chart-2", "--chart-3", "--chart-4"];
const MAX_POINTS = 4000;
let library;

function uplot() {
  library ??= new Promise((resolve, reject) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = here("../vendor/uplot-1.6.32/uPlot.min.css");
    document.head.prepend(style);
    const script = document.createElement("script");
    script.src = here("../vendor/uplot-1.6.32/uPlot.iife.min.js");
    script.onload = () => resolve(window.uPlot);
    script.onerror = reject;
    document.head.append(script);
  });
  return library;
}

// A line through few points shows them as dots too: a line of one point is invisible.
const few = (plot, series) => plot.data[series].filter((value) => value !== null).length <= 30;

const WHOLE = [1, 2, 5].flatMap((n) => Array.from({ length: 9 }, (_, power) => n * 10 ** power)).sort((a, b) => a - b); // there is no half step

const UNITS = {
  "": (v) => (v === 0 ? "0" : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3 ? v.toExponential(1) : String(Number(v.toPrecision(4)))),
  bytes: (v) => (v >= 1e9 ? `${+(v / 1e9).toFixed(2)} GB` : `${Math.round(v / 1e6)} MB`),
  percent: (v) => `${Math.round(v)}%`,
  seconds: (v) => `${+v.toPrecision(3)} s`,
};

export async function start(root = document) {
  const figures = root.querySelectorAll("[data-chart]:not([data-started])");
  if (!figures.length) return;
  figures.forEach((figure) => (figure.dataset.started = "1"));
  const uPlot = await uplot();
  figures.forEach((figure) => new Chart(figure, uPlot));
}

class Chart {
  constructor(figure, uPlot) {
    this.figure = figure;
    this.uPlot = uPlot;
    this.keys = figure.dataset.keys.split(",").map((key) => key.trim());
    const labels = (figure.dataset.labels || "").split(",");
    this.labels = this.keys.map((key, i) => labels[i]?.trim() || key.split("/").pop().replaceAll("_", " "));
    this.format = UNITS[figure.dataset.unit] ?? UNITS[""];
    this.points = new Map(this.keys.map((key) => [key, new Map()]));
    this.plotBox = figure.querySelector("[data-chart-plot]");
    this.note = figure.querySelector("[data-chart-note]");
    this.log = false;
    this.smooth = false;
    this.listen();
    this.load();
  }

  listen() {
    const button = (name, change) => {
      const element = this.figure.querySelector(`[data-chart-${name}]`);
      element?.addEventListener("click", () => {
        const on = element.getAttribute("aria-pressed") !== "true";
        element.setAttribute("aria-pressed", String(on));
        change(on);
        this.rebuild();
      });
    };
    button("log", (on) => (this.log = on));
    button("smooth", (on) => (this.smooth = on));
    new ResizeObserver(() => this.resize()).observe(this.plotBox);
    window.addEventListener("themechange", () => this.rebuild());
    this.figure.querySelector("details")?.addEventListener("toggle", () => this.table());
    const job = document.querySelector("[data-live-job]")?.dataset.liveJob;
    document.addEventListener("tuneloop:events", ({ detail }) => {
      if (detail.id !== job || !this.figure.dataset.url.includes(job)) return;
      let added = false;
      for (const event of detail.events) {
        if (event.type === "metrics") added = this.add(event.step, event.values) || added;
        if (["started", "stopped", "done", "retry"].includes(event.type)) this.reloadSoon();
      }
      if (added) this.drawSoon();
    });
    this.figure.addEventListener("tuneloop:reload", () => this.load());
  }

  async load() {
    const url = new URL(this.figure.dataset.url, location.href);
    url.searchParams.set("keys", this.keys.join(","));
    url.searchParams.set("px", String(Math.max(200, Math.round(this.plotBox.clientWidth || 800))));
    let body;
    try {
      const response = await fetch(url, { headers: { accept: "application/json" } });
      if (!response.ok) throw new Error(String(response.status));
      body = await response.json();
    } catch {
      if (!this.any()) this.say("The numbers could not be fetched. They will be tried again.");
      clearTimeout(this.retrying);
      this.retrying = setTimeout(() => this.load(), 5000);
      return;
    }
    for (const key of this.keys) {
      const known = this.points.get(key);
      const series = body.series?.[key] ?? {};
      (series.steps ?? []).forEach((step, i) => known.set(step, series.values[i]));
    }
    this.drawSoon();
  }

  reloadSoon() {
    clearTimeout(this.retrying);
    this.retrying = setTimeout(() => this.load(), 800);
  }

  add(step, values = {}) {
    let added = false;
    for (const key of this.keys) {
      if (Number.isFinite(values[key])) {
        this.points.get(key).set(step, values[key]); // a step repeated after a resume replaces itself
        added = true;
      }
    }
    return added;
  }

  any() {
    return this.keys.some((key) => this.points.get(key).size);
  }

  drawSoon() {
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = null;
      this.draw();
    });
  }

  say(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  /** One shared x axis: [[steps], [values], …]; a series without a value at a step has null there. */
  data() {
    const steps = [...new Set(this.keys.flatMap((key) => [...this.points.get(key).keys()]))].sort((a, b) => a - b);
    this.thin(steps);
    return [steps, ...this.keys.map((key) => this.values(key, steps))];
  }

  thin(steps) {
    if (steps.length <= MAX_POINTS) return;
    const every = Math.ceil(steps.length / (MAX_POINTS / 2));
    for (const key of this.keys) {
      const points = this.points.get(key);
      if (points.size > MAX_POINTS / 2) steps.forEach((step, i) => i % every && points.delete(step));
    }
  }

  values(key, steps) {
    const points = this.points.get(key);
    const dense = points.size > 30;
    let [sum, weight] = [0, 0];
    return steps.map((step) => {
      let value = points.get(step);
      if (value === undefined || !Number.isFinite(value)) return null;
      if (this.log && value <= 0) return null;
      if (this.smooth && dense) {
        sum = 0.9 * sum + 0.1 * value; // exponential mean without a pull towards the first value
        weight = 0.9 * weight + 0.1;
        value = sum / weight;
      }
      return value;
    });
  }

  draw() {
    if (!this.any()) {
      this.say("The curve starts with the first measured step.");
      return;
    }
    this.say("");
    const data = this.data();
    if (this.plot && this.plot.series.length === data.length) {
      this.plot.setData(data);
    } else {
      this.build(data);
    }
    this.legend();
    this.table();
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    this.draw();
  }

  build(data) {
    const style = getComputedStyle(this.figure);
    const colour = (name) => style.getPropertyValue(name).trim();
    const font = `11px ${style.fontFamily}`;
    const axis = { stroke: colour("--text-3"), font, ticks: { show: false }, grid: { stroke: colour("--chart-grid"), width: 1 } };
    const percent = this.figure.dataset.unit === "percent";
    const fromZero = percent || this.figure.dataset.unit === "bytes";
    this.plot = new this.uPlot(
      {
        width: this.plotBox.clientWidth - 16,
        height: this.plotBox.clientHeight - 4,
        padding: [8, 10, 0, 0],
        legend: { show: false },
        cursor: { y: false, points: { size: 7, width: 2 }, drag: { x: true, y: false } },
        scales: {
          x: { time: false },
          y: {
            distr: this.log ? 3 : 1,
            range: (u, min, max) => (this.log ? this.uPlot.rangeLog(min ?? 0.1, max ?? 10, 10, false) : this.range(min, max, percent, fromZero)),
          },
        },
        axes: [
          { ...axis, space: 70, size: 28, gap: 4, grid: { show: false }, incrs: WHOLE },
          { ...axis, size: 52, gap: 6, space: 36, values: (u, splits) => splits.map((v) => (v === null ? "" : this.format(v))) },
        ],
        series: [
          { label: this.figure.dataset.x || "step" },
          ...this.keys.map((key, i) => ({
            label: this.labels[i],
            stroke: colour(COLOURS[i % COLOURS.length]),
            width: 1.75,
            spanGaps: true,
            points: { show: few, size: 5, fill: colour("--surface") },
          })),
        ],
        hooks: { setCursor: [() => this.legend()] },
      },
      data,
      this.plotBox,
    );
  }

  range(min, max, percent, fromZero) {
    if (percent) return [0, 100];
    if (min === null || max === null) return [0, 1];
    if (fromZero) return [0, max * 1.1 || 1];
    const pad = (max - min) * 0.08 || Math.abs(max) * 0.1 || 1;
    return [min >= 0 && min - pad < 0 ? 0 : min - pad, max + pad];
  }

  resize() {
    const width = this.plotBox.clientWidth - 16;
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: this.plotBox.clientHeight - 4 });
  }

  /** The legend tells the value under the cursor, else the last one. */
  legend() {
    const list = this.figure.querySelector("[data-chart-legend]");
    if (!list || !this.plot) return;
    const index = this.plot.cursor.idx;
    const items = this.keys.map((key, i) => {
      const values = this.plot.data[i + 1];
      let at = index ?? values.length - 1;
      while (at >= 0 && values[at] == null) at -= 1;
      return [i, at >= 0 ? this.format(values[at]) : null];
    });
    const step = index == null ? null : this.plot.data[0][index];
    list.replaceChildren(
      ...items.filter(([, text]) => text !== null).map(([i, text]) => {
        const item = document.createElement("li");
        const swatch = document.createElement("span");
        swatch.className = `swatch swatch-${i + 1}`;
        const value = document.createElement("b");
        value.textContent = text;
        item.append(swatch, this.keys.length > 1 ? `${this.labels[i]} ` : "", value);
        return item;
      }),
    );
    if (step != null) {
      const item = document.createElement("li");
      item.className = "muted";
      item.textContent = `${this.figure.dataset.x || "step"} ${step}`;
      list.append(item);
    }
  }

  table() {
    const details = this.figure.querySelector("details");
    if (!details?.open || !this.any()) return;
    const [steps, ...columns] = this.data();
    const table = document.createElement("table");
    table.className = "table table-compact";
    const head = table.createTHead().insertRow();
    for (const name of [this.figure.dataset.x || "step", ...this.labels]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.className = "num";
      cell.textContent = name;
      head.append(cell);
    }
    const every = Math.ceil(steps.length / 200);
    const body = table.createTBody();
    steps.forEach((step, i) => {
      if (i % every && i !== steps.length - 1 && columns.slice(1).every((column) => column[i] === null)) return;
      const row = body.insertRow();
      for (const text of [String(step), ...columns.map((column) => (column[i] === null ? "" : this.format(column[i])))]) {
        const cell = row.insertCell();
        cell.className = "num";
        cell.textContent = text;
      }
    });
    const wrap = document.createElement("div");
    wrap.className = "table-wrap";
    wrap.tabIndex = 0;
    wrap.append(table);
    this.figure.querySelector("[data-chart-table]").replaceChildren(wrap);
  }
}
