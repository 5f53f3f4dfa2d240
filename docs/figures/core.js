// What the figures share. A figure is a state, controls that change it, and a pure function from
// data and state to pictures. The same function draws the first state when the site is built, which
// is what a reader without JavaScript sees.
globalThis.Lamina = (() => {
  const figures = {};

  // Words to draw with. All return strings.

  const escape = s => String(s).replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
  const attributes = o => Object.entries(o).filter(([, v]) => v !== undefined && v !== false)
    .map(([k, v]) => ` ${k}="${escape(v)}"`).join("");
  const tag = (name, o, inside = "") => `<${name}${attributes(o)}>${inside}</${name}>`;
  const number = (v, digits = 2) => {
    const s = v.toFixed(digits);
    return (+s === 0 ? s.replace("-", "") : s).replace("-", "\u2212");
  };
  // Without zeros at the end: 1.5 and 3, not 1.50 and 3.00.
  const short = (v, digits = 3) => number(+v.toFixed(digits) || 0,
    (String(Math.abs(+v.toFixed(digits))).split(".")[1] ?? "").length);
  const text = (x, y, s, o = {}) => tag("text", { x, y, ...o }, escape(s));
  // Colour of a value: orange above 0, blue below, stronger towards max.
  const heat = (v, max) => v === 0 || !max ? "fill:transparent" :
    `fill:color-mix(in srgb, var(--lf-${v > 0 ? "pos" : "neg"}) ${Math.round(8 + 52 * Math.min(1, Math.abs(v) / max))}%, transparent)`;
  // A cell of a matrix. With `at` it can be pointed at and reached by the arrow keys.
  const cell = (x, y, size, s, o = {}) => {
    const { value, max, at, label, on, mark, w = size, h = size, kind = "button", pressed } = o;
    const inside = tag("rect", { x: x + 1, y: y + 1, width: w - 2, height: h - 2, rx: 3,
      style: value === undefined ? undefined : heat(value, max) }) + text(x + w / 2, y + h / 2, s);
    const cls = ["lf-cell", on && "lf-on", mark && `lf-${mark}`].filter(Boolean).join(" ");
    return tag("g", at === undefined ? { class: cls } : { class: cls, "data-at": at, role: kind,
      tabindex: on === "here" ? 0 : -1, "aria-label": label ?? s, "aria-pressed": pressed }, inside);
  };
  const line = (x1, y1, x2, y2, o = {}) => tag("line", { x1, y1, x2, y2, ...o });
  const arrow = (x1, y1, x2, y2, o = {}) => line(x1, y1, x2, y2, { "marker-end": "url(#lf-arrow)", ...o });
  const curve = (points, o = {}) => tag("polyline", { points: points.map(p => p.map(v => +v.toFixed(2)).join(",")).join(" "), ...o });

  // A picture: panels side by side, which wrap where they do not fit.
  const panels = list => list.map(p => {
    const live = p.svg.includes("data-at=");
    const svg = tag("svg", { viewBox: `0 0 ${p.w} ${p.h}`, width: p.w, height: p.h, role: live ? "group" : "img", "aria-label": p.label ?? p.title }, p.svg);
    return tag("div", { class: p.w > 500 ? "lf-panel lf-wide" : "lf-panel", style: `flex-basis:${p.w}px` }, (p.title ? tag("p", { class: "lf-title" }, escape(p.title)) : "") + svg);
  }).join("");
  const picture = (spec, D, S) => {
    const drawn = spec.draw(D, S);
    return { picture: panels(drawn.panels), say: drawn.say };
  };

  // Axes of a small chart: returns the maps of x and y and the frame.
  const axes = ({ w, h, x: [x0, x1], y: [y0, y1], xs = [], ys = [], xlabel = "", ylabel = "", log = false, left = 34 }) => {
    const bottom = 34, top = 8, right = 8;
    const X = v => left + (v - x0) / (x1 - x0) * (w - left - right);
    const l = v => log ? Math.log10(v) : v;
    const Y = v => h - bottom - (l(v) - l(y0)) / (l(y1) - l(y0)) * (h - bottom - top);
    const frame = [
      ...xs.map(v => line(X(v), Y(y0), X(v), Y(y0) + 4, { class: "lf-axis" }) + text(X(v), Y(y0) + 13, short(v), { class: "lf-tick" })),
      ...ys.map(([v, s]) => line(X(x0), Y(v), X(x1), Y(v), { class: "lf-grid" }) + text(left - 5, Y(v), s ?? short(v), { class: "lf-tick lf-end" })),
      line(X(x0), Y(y0), X(x1), Y(y0), { class: "lf-axis" }),
      text((X(x0) + X(x1)) / 2, h - 6, xlabel, { class: "lf-tick" }),
      ylabel && text(X(x0) + 4, top + 4, ylabel, { class: "lf-tick lf-start" }),
    ].join("");
    return { X, Y, frame };
  };

  // Lamina's random numbers, Philox4x32-10, as in dropout/formula.py. First the product of two
  // 32-bit words, as two words.
  const product = (a, b) => {
    const al = a & 0xffff, ah = a >>> 16, bl = b & 0xffff, bh = b >>> 16;
    const middle = ah * bl + (al * bl >>> 16), other = (middle & 0xffff) + al * bh;
    return [(ah * bh + (middle >>> 16) + (other >>> 16)) >>> 0, Math.imul(a, b) >>> 0];
  };
  const philox = ([c0, c1, c2, c3], [k0, k1]) => {
    for (let round = 0; round < 10; round++) {
      const [ah, al] = product(c0, 0xd2511f53), [bh, bl] = product(c2, 0xcd9e8d57);
      [c0, c1, c2, c3] = [(bh ^ c1 ^ k0) >>> 0, bl, (ah ^ c3 ^ k1) >>> 0, al];
      k0 = (k0 + 0x9e3779b9) >>> 0; k1 = (k1 + 0xbb67ae85) >>> 0;
    }
    return [c0, c1, c2, c3];
  };

  // The element.

  const figure = (name, spec) => { figures[name] = { name, ...spec }; };
  const saved = name => {
    const given = new URLSearchParams(location.search).get(name);
    if (!given) return {};
    try { return Object(JSON.parse(given)); } catch { return {}; }
  };
  // Whether an address may put this value into the state: addresses come from anywhere.
  const fits = (spec, key, value) => {
    const usual = Object.hasOwn(spec.state, key) ? spec.state[key] : undefined;
    if (typeof value !== typeof usual) return false;
    const c = (spec.controls ?? []).find(control => control.key === key);
    if (c?.kind === "range") {
      const steps = (value - c.min) / c.step;
      return value >= c.min && value <= c.max && Math.abs(steps - Math.round(steps)) < 1e-6;
    }
    if (c?.kind === "check") return true;
    if (c?.kind === "choice") return c.options.some(([option]) => option === value);
    if (typeof value === "number") return Number.isInteger(value) && value >= 0 && value <= 1000;
    return value.length === usual.length && /^\d*$/.test(value);
  };

  class Element extends (globalThis.HTMLElement ?? Object) {
    connectedCallback() {
      if (this.S) return;
      this.name = this.getAttribute("name");
      this.spec = figures[this.name];
      this.D = JSON.parse(this.querySelector("script").textContent);
      this.S = { ...this.spec.state };
      const from = saved(this.name);
      for (const k in from) if (fits(this.spec, k, from[k])) { this.S[k] = from[k]; this.touched = true; }
      if (this.touched && !this.draws()) {
        this.S = { ...this.spec.state };
        this.touched = false;
      }
      this.pictures = this.querySelector(".lf-picture");
      this.said = this.querySelector(".lf-say");
      this.makeControls();
      this.pictures.addEventListener("pointermove", e => e.pointerType === "mouse" && this.point(e, "hover"));
      this.pictures.addEventListener("click", e => this.point(e, "click"));
      this.pictures.addEventListener("keydown", e => this.key(e));
      this.redraw();
      this.autoplay();
      this.dataset.ready = "1";
    }

    // Whether a state taken from an address can be drawn.
    draws() {
      try {
        const { picture: svg, say } = picture(this.spec, this.D, this.S);
        return !/NaN|undefined|Infinity/.test(svg + say);
      } catch { return false; }
    }
    makeControls() {
      const box = document.createElement("div");
      box.className = "lf-controls";
      this.updates = [];
      const controls = [...this.spec.controls ?? []];
      if (this.spec.tick) controls.unshift({ kind: "play" });
      for (const c of controls) box.append(this[`make_${c.kind}`](c));
      if (box.children.length) this.prepend(box);
    }
    labelled(c, input) {
      const label = document.createElement("label"), name = document.createElement("span");
      name.textContent = c.label;
      label.append(name, input);
      return label;
    }
    make_play() {
      const b = document.createElement("button");
      b.type = "button"; b.className = "lf-play";
      b.addEventListener("click", () => { this.touched = true; this.timer ? this.stop() : this.start(); });
      this.updates.push(() => { b.textContent = this.timer ? "❚❚ Pause" : "▶ Play"; });
      return b;
    }
    make_range(c) {
      const input = document.createElement("input"), out = document.createElement("output");
      Object.assign(input, { type: "range", min: c.min, max: c.max, step: c.step, name: c.key });
      out.setAttribute("aria-live", "off");
      input.addEventListener("input", () => this.set({ [c.key]: +input.value }));
      const label = this.labelled(c, input);
      label.append(out);
      this.updates.push(() => {
        if (c.max_of) input.max = c.max_of(this.D, this.S);
        input.value = this.S[c.key];
        out.textContent = (c.show ?? (v => short(v)))(this.S[c.key], this.D);
        input.setAttribute("aria-valuetext", out.textContent);
        label.hidden = c.when ? !c.when(this.S) : false;
      });
      return label;
    }
    make_choice(c) {
      const select = document.createElement("select");
      select.name = c.key;
      for (const [value, name] of c.options) select.add(new Option(name, value));
      select.addEventListener("change", () => this.set({ [c.key]: select.value, ...c.also?.(select.value, this.D, this.S) }));
      const label = this.labelled(c, select);
      this.updates.push(() => { select.value = this.S[c.key]; label.hidden = c.when ? !c.when(this.S) : false; });
      return label;
    }
    make_check(c) {
      const input = document.createElement("input");
      Object.assign(input, { type: "checkbox", name: c.key });
      input.addEventListener("change", () => this.set({ [c.key]: input.checked }));
      const label = this.labelled(c, input);
      this.updates.push(() => { input.checked = this.S[c.key]; label.hidden = c.when ? !c.when(this.S, this.D) : false; });
      return label;
    }
    make_words(c) {
      const words = document.createElement("span");
      words.textContent = c.label;
      return words;
    }
    make_button(c) {
      const b = document.createElement("button");
      b.type = "button"; b.textContent = c.label;
      b.addEventListener("click", () => this.set(c.act(this.S, this.D)));
      this.updates.push(() => { b.hidden = c.when ? !c.when(this.S) : false; });
      return b;
    }

    // What a reader does to it. The first touch ends the show that runs by itself.
    set(change) {
      this.touched = true;
      this.stop();
      this.letGo();
      Object.assign(this.S, change);
      this.said.setAttribute("aria-live", "polite");
      this.redraw();
      this.remember();
    }
    point(e, how) {
      const at = e.target.closest?.("[data-at]")?.dataset.at;
      if (at === undefined) return;
      const change = this.spec.point?.(this.S, this.D, at, how);
      // The picture is drawn anew under the mouse, which must not count as another movement.
      if (change && Object.keys(change).some(k => change[k] !== this.S[k])) this.set(change);
      if (how === "click") this.focusOn(at);
    }
    key(e) {
      const here = e.target.closest?.("[data-at]");
      if (!here) return;
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
      if (move) {
        const [kind, i, j] = here.dataset.at.split(" ");
        const at = `${kind} ${+i + move[0]} ${+j + move[1]}`;
        if (!this.querySelector(`[data-at="${at}"]`)) return;
        e.preventDefault();
        const change = this.spec.point?.(this.S, this.D, at, "hover");
        if (change) this.set(change);
        this.focusOn(at);
      } else if (e.key === "Enter" || e.key === " ") {
        e.preventDefault();
        this.point(e, "click");
      }
    }
    focusOn(at) { this.querySelector(`[data-at="${at}"]`)?.focus(); }
    remember() {
      const query = new URLSearchParams(location.search), changed = {};
      for (const k in this.S) if (this.S[k] !== this.spec.state[k]) changed[k] = this.S[k];
      Object.keys(changed).length ? query.set(this.name, JSON.stringify(changed)) : query.delete(this.name);
      try { history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`); } catch { /* file: */ }
    }

    redraw() {
      const focused = document.activeElement?.closest?.("[data-at]");
      const at = this.contains(focused) ? focused.dataset.at : undefined;
      const { picture: svg, say } = picture(this.spec, this.D, this.S);
      this.pictures.innerHTML = svg;
      // Tab reaches one cell of each kind; arrow keys go on from there.
      const cells = [...this.pictures.querySelectorAll("[data-at]")];
      for (const kind of new Set(cells.map(e => e.dataset.at.split(" ")[0]))) {
        const own = cells.filter(e => e.dataset.at.startsWith(`${kind} `));
        if (!own.some(e => e.getAttribute("tabindex") === "0")) own[0]?.setAttribute("tabindex", 0);
      }
      if (this.said.innerHTML !== say) this.said.innerHTML = say;
      for (const update of this.updates) update();
      if (at) this.focusOn(at);
    }

    // The show that runs by itself, while it is in sight, until it is touched.
    autoplay() {
      if (!this.spec.tick || this.touched || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
      new IntersectionObserver(([entry]) => {
        if (this.touched) return;
        entry.isIntersecting ? this.start() : this.stop();
      }, { threshold: 0.4 }).observe(this);
    }
    start() {
      this.said.setAttribute("aria-live", "off");
      this.timer ??= setInterval(() => this.go(), this.spec.every ?? 1500);
      this.redraw();
    }
    // A show that runs by itself never gets lower, or the text beneath it would go up and down.
    go() {
      Object.assign(this.S, this.spec.tick(this.S, this.D));
      if (this.width !== this.clientWidth) this.letGo();
      this.width = this.clientWidth;
      for (const part of [this.pictures, this.said]) part.style.minHeight = `${part.offsetHeight}px`;
      this.redraw();
    }
    letGo() { for (const part of [this.pictures, this.said]) part.style.minHeight = ""; }
    stop() {
      clearInterval(this.timer);
      this.timer = undefined;
      for (const update of this.updates) update();
    }
  }
  const begin = () => customElements.define("lamina-figure", Element);

  return { figures, figure, picture, begin, escape, tag, number, short, text, heat, cell, line, arrow, curve, axes, philox };
})();
if (globalThis.document) document.addEventListener("DOMContentLoaded", () => Lamina.begin());
