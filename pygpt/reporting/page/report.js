"use strict";
// Draws the plots: SVG with ticks, a legend that hides curves, zoom, and a readout at the cursor.

const NS = "http://www.w3.org/2000/svg";
const MARGIN = { left: 58, right: 14, top: 10, bottom: 34 };

function element(name, attributes, parent, text) {
  const svg = ["svg", "g", "path", "line", "text", "rect", "clipPath", "circle", "title"];
  const node = svg.includes(name) ? document.createElementNS(NS, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function format(value) {
  const size = Math.abs(value);
  let text;
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) text = value.toExponential(2).replace(/\.?0+e/, "e");
  else text = size >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(4)));
  const [whole, part] = text.split(".");
  const grouped = whole.includes("e") ? whole : whole.replace(/\B(?=(\d{3})+$)/g, SEPARATORS[0]);
  return part === undefined ? grouped : grouped + SEPARATORS[1] + part;
}

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].map((m) => m * power).find((u) => u >= rough);
  const out = [];
  for (let t = Math.ceil(low / unit); t * unit <= high * (1 + 1e-12); t += 1) out.push(t * unit);
  return out;
}

class Plot {
  constructor(spec, parent) {
    this.spec = spec;
    this.hidden = new Set();
    this.small = !["loss", "tokens"].includes(spec.id);
    this.figure = element("figure", { id: `plot-${spec.id}`, class: this.small ? "small" : "" }, parent);
    const caption = element("figcaption", {}, this.figure);
    element("span", { id: `title-${spec.id}` }, caption, spec.title);
    if (spec.y) element("small", {}, caption, spec.y);
    this.log = element("button", { type: "button", "aria-pressed": "false" }, caption, "log x");
    this.log.addEventListener("click", () => {
      this.log.setAttribute("aria-pressed", String(!this.logarithmic));
      this.reset();
    });
    this.svg = element("svg", { role: "img", tabindex: "0", "aria-labelledby": `title-${spec.id}` }, this.figure);
    this.readout = element("p", { class: "readout", "aria-live": "polite" }, this.figure);
    this.legend();
    this.events();
    this.reset();
    new ResizeObserver(() => this.draw()).observe(this.figure);
  }

  get logarithmic() { return this.log.getAttribute("aria-pressed") === "true"; }
  get shown() { return this.spec.series.filter((s) => !this.hidden.has(s.name)); }

  legend() {
    const box = element("div", { class: "legend" }, this.figure);
    for (const series of this.spec.series) {
      const button = element("button", { type: "button", "aria-pressed": "true",
        style: `--swatch: var(--c${series.color % 8})` }, box, series.name);
      if (series.dash) button.dataset.dash = "";
      button.addEventListener("click", () => {
        const hide = !this.hidden.delete(series.name);
        if (hide) this.hidden.add(series.name);
        button.setAttribute("aria-pressed", String(!hide));
        this.draw();
      });
    }
  }

  reset() {
    const xs = this.spec.series.flatMap((s) => s.points.map((p) => p[0])).filter((x) => !this.logarithmic || x > 0);
    this.full = [Math.min(...xs), Math.max(...xs)];
    if (this.full[0] === this.full[1]) this.full[1] += 1;
    this.range = [...this.full];
    this.draw();
  }

  x(value) {
    const f = this.logarithmic ? Math.log : (v) => v;
    const [low, high] = this.range.map(f);
    return MARGIN.left + (f(value) - low) / (high - low) * (this.width - MARGIN.left - MARGIN.right);
  }

  value(pixel) {
    const part = (pixel - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
    const [low, high] = this.range;
    return this.logarithmic ? low * (high / low) ** part : low + part * (high - low);
  }

  y(value) {
    const [low, high] = this.extent;
    return this.height - MARGIN.bottom - (value - low) / (high - low) * (this.height - MARGIN.top - MARGIN.bottom);
  }

  // Heights in view. The first steep fall of a loss would flatten all the rest: it may leave the frame.
  fit() {
    const [low, high] = this.range;
    const ys = this.shown.flatMap((s) => s.points.filter((p) => p[0] >= low && p[0] <= high).map((p) => p[1]));
    for (const s of this.shown) for (const b of s.band || []) if (b[0] >= low && b[0] <= high) ys.push(b[1], b[2]);
    ys.sort((a, b) => a - b);
    let bottom = ys[0] ?? 0, top = ys[ys.length - 1] ?? 1;
    const whole = low === this.full[0] && high === this.full[1];
    if (!this.small && whole && !this.logarithmic && ys.length > 40) top = Math.min(top, bottom + 2.5 * (ys[Math.floor(ys.length * 0.75)] - bottom));
    const pad = (top - bottom || Math.abs(top) || 1) * 0.06;
    this.extent = [bottom - pad, top + pad];
  }

  draw() {
    this.width = Math.max(280, this.figure.clientWidth - 30);
    this.height = this.small ? 200 : Math.min(380, Math.max(240, this.width * 0.42));
    this.fit();
    const svg = this.svg, { width, height } = this;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.axes();
    const clip = element("clipPath", { id: `clip-${this.spec.id}` }, svg);
    element("rect", { x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right,
      height: height - MARGIN.top - MARGIN.bottom }, clip);
    const group = element("g", { "clip-path": `url(#clip-${this.spec.id})` }, svg);
    for (const series of this.shown) this.curve(series, group);
    this.cursor = element("line", { class: "cursor", y1: MARGIN.top, y2: height - MARGIN.bottom, visibility: "hidden" }, svg);
    this.box = element("rect", { class: "zoom", y: MARGIN.top, height: height - MARGIN.top - MARGIN.bottom, width: 0 }, svg);
  }

  axes() {
    const { svg, width, height } = this;
    const bottom = height - MARGIN.bottom;
    for (const t of ticks(...this.extent, this.small ? 4 : 6)) {
      element("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: this.y(t), y2: this.y(t) }, svg);
      element("text", { x: MARGIN.left - 6, y: this.y(t) + 4, "text-anchor": "end" }, svg, format(t));
    }
    for (const t of this.xTicks()) {
      element("line", { class: "grid", x1: this.x(t), x2: this.x(t), y1: bottom, y2: bottom + 4 }, svg);
      const text = format(t), over = this.x(t) + 4 * text.length > width;
      element("text", { x: over ? width : this.x(t), y: bottom + 16, "text-anchor": over ? "end" : "middle" }, svg, text);
    }
    element("text", { x: width - MARGIN.right, y: height - 4, "text-anchor": "end" }, svg, this.spec.x);
  }

  xTicks() {
    const [low, high] = this.range;
    if (!this.logarithmic || high / low < 5) return ticks(low, high, Math.max(3, this.width / 130));
    const out = [];
    for (let p = Math.floor(Math.log10(low)); 10 ** p <= high; p += 1)
      for (const m of high / low > 300 ? [1] : [1, 3]) if (m * 10 ** p >= low && m * 10 ** p <= high) out.push(m * 10 ** p);
    return out;
  }

  curve(series, group) {
    const color = `var(--c${series.color % 8})`;
    const points = series.points.filter((p) => !this.logarithmic || p[0] > 0);
    const path = (list) => list.map((p, i) => `${i ? "L" : "M"}${this.x(p[0]).toFixed(1)} ${this.y(p[1]).toFixed(1)}`).join("");
    if (series.band) {
      const up = series.band.map((b) => [b[0], b[2]]), down = series.band.map((b) => [b[0], b[1]]).reverse();
      element("path", { d: path([...up, ...down]) + "Z", fill: color, opacity: 0.15 }, group);
    }
    element("path", { d: path(points), fill: "none", stroke: color, "stroke-width": series.thin ? 1 : 2,
      opacity: series.thin ? 0.45 : 1, "stroke-dasharray": series.dash ? "6 4" : "none",
      "data-points": points.length }, group);
    if (points.length < 40 && !series.dash)
      for (const p of points) element("circle", { cx: this.x(p[0]), cy: this.y(p[1]), r: 3, fill: color }, group);
  }

  read(at) {
    const x = Math.min(this.range[1], Math.max(this.range[0], at));
    this.at = x;
    for (const side of ["x1", "x2"]) this.cursor.setAttribute(side, this.x(x));
    this.cursor.setAttribute("visibility", "visible");
    const near = this.shown.map((s) => {
      const p = s.points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
      return `${s.name}: ${format(p[1])}`;
    });
    this.readout.textContent = `${this.spec.x} ${format(x)} · ${near.join(" · ")}`;
  }

  zoom(low, high) {
    const least = (this.full[1] - this.full[0]) / 2000;
    if (high - low < least) return;
    this.range = [Math.max(this.full[0], low), Math.min(this.full[1], high)];
    this.draw();
  }

  events() {
    const pixel = (event) => {
      const box = this.svg.getBoundingClientRect();
      return (event.clientX - box.left) * this.width / box.width;
    };
    let start = null;
    this.svg.addEventListener("pointerdown", (event) => { start = pixel(event); this.svg.setPointerCapture(event.pointerId); });
    this.svg.addEventListener("pointermove", (event) => {
      const now = pixel(event);
      this.read(this.value(now));
      if (start === null) return;
      this.box.setAttribute("x", Math.min(start, now));
      this.box.setAttribute("width", Math.abs(now - start));
    });
    this.svg.addEventListener("pointerup", (event) => {
      const ends = [this.value(start), this.value(pixel(event))].sort((a, b) => a - b);
      const far = Math.abs(pixel(event) - start) > 6;
      start = null;
      this.box.setAttribute("width", 0);
      if (far) this.zoom(...ends);
    });
    this.svg.addEventListener("pointercancel", () => { start = null; this.box.setAttribute("width", 0); });
    this.svg.addEventListener("dblclick", () => this.reset());
    this.svg.addEventListener("keydown", (event) => {
      const [low, high] = this.range, at = this.at ?? (low + high) / 2, width = high - low;
      const moves = { ArrowLeft: -0.02, ArrowRight: 0.02 };
      if (event.key in moves) this.read(at + moves[event.key] * width);
      else if (event.key === "+" || event.key === "=") { this.zoom(at - width / 4, at + width / 4); this.read(at); }
      else if (event.key === "-" || event.key === "−") { this.zoom(at - width, at + width); this.read(at); }
      else if (event.key === "Escape") this.reset();
      else return;
      event.preventDefault();
    });
  }
}

for (const spec of JSON.parse(document.getElementById("data").textContent)) new Plot(spec, document.getElementById("plots"));
