// Histograms before and after; beside them the running values that inference will use.
(() => {
  const { axes, tag, line, curve, number, short } = Lamina, EPS = 1e-5;
  const batch = (D, S, k) => D.z[k].slice(0, S.size).map(z => S.mean + S.spread * z);
  const moments = x => {
    const mean = x.reduce((a, b) => a + b, 0) / x.length;
    return [mean, x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length];
  };
  // Running mean and variance before batch k, for k = 0 ... step.
  const running = (D, S) => {
    const found = [[0, 1]], a = S.momentum;
    for (let k = 0; k < S.step; k++) {
      const [mean, v] = moments(batch(D, S, k)), [m, r] = found[k];
      found.push([a * m + (1 - a) * mean, a * r + (1 - a) * v * S.size / (S.size - 1)]);
    }
    return found;
  };
  const values = (D, S) => {
    const x = batch(D, S, S.step), [mean, v] = moments(x), history = running(D, S), last = history[S.step];
    const [m, r] = S.mode === "training" ? [mean, v] : last;
    return { mean, var: v, running: last, y: x.map(u => S.gamma * (u - m) / Math.sqrt(r + EPS) + S.beta) };
  };
  const LOW = -8, HIGH = 10, BIN = .5;
  const histogram = (list, cls, title) => {
    const counts = new Array((HIGH - LOW) / BIN).fill(0);
    list.forEach(v => counts[Math.min(counts.length - 1, Math.max(0, Math.floor((v - LOW) / BIN)))]++);
    const top = Math.max(...counts) / list.length, h = 150, w = 330;
    const { X, Y, frame } = axes({ w, h, x: [LOW, HIGH], y: [0, Math.max(.3, top)], xs: [-8, -6, -4, -2, 0, 2, 4, 6, 8, 10], left: 8 });
    const bars = counts.map((n, i) => n ? tag("rect", { x: X(LOW + i * BIN) + .5, y: Y(n / list.length), width: X(BIN) - X(0) - 1, height: Y(0) - Y(n / list.length), class: `lf-fill-${cls}`, "fill-opacity": .75 }) : "").join("");
    const [m, v] = moments(list), sd = Math.sqrt(v);
    const bracket = line(X(Math.max(LOW, m - sd)), 14, X(Math.min(HIGH, m + sd)), 14, { class: "lf-marked" }) + line(X(Math.min(HIGH, Math.max(LOW, m))), 8, X(Math.min(HIGH, Math.max(LOW, m))), 20, { class: "lf-marked" });
    return { title: `${title}: mean ${number(m)}, deviation ${number(sd)}`, w, h, label: title, svg: frame + bars + bracket };
  };
  const slider = (key, label, min, max, step) => ({ kind: "range", key, label, min, max, step });
  Lamina.figure("batchnorm", {
    state: { mode: "training", mean: 4, spread: 2, gamma: 1, beta: 0, size: 32, step: 12, momentum: .9 },
    controls: [
      { kind: "choice", key: "mode", label: "pass", options: [["training", "training: the batch's own statistics"], ["inference", "inference: the running values"]] },
      slider("mean", "mean of x", -3, 5, .5), slider("spread", "spread of x", .2, 3, .1), slider("gamma", "γ", .2, 2, .1), slider("beta", "β", -3, 3, .5),
      { ...slider("size", "batch size", 2, 64, 1) }, { ...slider("momentum", "momentum", .5, .99, .01) },
      { ...slider("step", "batch", 0, 49, 1), show: v => v + 1 },
    ],
    every: 450,
    tick: (S, D) => S.step + 1 < D.z.length ? { step: S.step + 1 } : { step: 0, mode: S.mode === "training" ? "inference" : "training" },
    values,
    draw(D, S) {
      const x = batch(D, S, S.step), v = values(D, S), history = running(D, S);
      const seen = D.z.slice(0, S.step + 1).map((_, k) => moments(batch(D, S, k)));
      const top = Math.max(6, ...seen.map(s => s[0]), ...history.map(h => h[0])), low = Math.min(-1, ...seen.map(s => s[0]));
      const most = Math.max(12, ...seen.map(s => s[1]), ...history.map(h => h[1]));
      const chart = (i, lo, hi, ys, title) => {
        const { X, Y, frame } = axes({ w: 330, h: 150, x: [0, 50], y: [lo, hi], xs: [0, 10, 20, 30, 40, 50], ys: ys.map(y => [y]), xlabel: "batches seen", left: 26 });
        const dots = seen.map((s, k) => tag("circle", { cx: X(k + 1), cy: Y(Math.min(hi, s[i])), r: 2.2, class: "lf-fill-neg" })).join("");
        return { title, w: 330, h: 150, svg: frame + dots + curve(history.map((h, k) => [X(k), Y(Math.min(hi, h[i]))]), { class: "lf-pos" }) };
      };
      return {
        panels: [histogram(x, "neg", "x"), histogram(v.y, "pos", "y"),
          chart(0, Math.floor(low), Math.ceil(top), [0, 2, 4], "mean"), chart(1, 0, Math.ceil(most), [0, 4, 8, 12], "variance")],
        say: `<span class="lf-key neg dot">each batch</span> <span class="lf-key pos">running value</span>. Batch ${S.step + 1} has mean ${number(v.mean)} and variance ${number(v.var)}; the running values stand at ${number(v.running[0])} and ${number(v.running[1])}. `
          + (S.mode === "training" ? "In training y has mean β and deviation γ, whatever x was." : "At inference y has them only as far as the running values have arrived."),
      };
    },
  });
})();
