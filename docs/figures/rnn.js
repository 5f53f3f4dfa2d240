// An RNN unrolled: the same cell at every step. Beneath it, how much of a gradient arrives.
(() => {
  const { cell, text, arrow, line, axes, curve, tag, number, short } = Lamina;
  const values = (D, S) => {
    const x = D.x[S.input], h = [0];
    x.forEach((v, t) => { const a = v * S.wx + h[t] * S.wh; h.push(S.activation === "tanh" ? Math.tanh(a) : Math.max(0, a)); });
    const back = new Array(h.length).fill(1);
    for (let t = h.length - 2; t >= 0; t--) {
      const slope = S.activation === "tanh" ? 1 - h[t + 1] ** 2 : +(h[t + 1] > 0);
      back[t] = back[t + 1] * slope * S.wh;
    }
    return { h, back };
  };
  const compact = v => v === 0 ? "0" : Math.abs(v) >= 1000 || (v !== 0 && Math.abs(v) < .001) ? v.toExponential(1).replaceAll("-", "\u2212") : number(v, 3);
  Lamina.figure("rnn", {
    state: { input: "a pulse, then silence", wx: 1, wh: .5, activation: "tanh", steps: 6, t: 2 },
    controls: [
      { kind: "choice", key: "input", label: "x is", options: ["a pulse, then silence", "always 1", "noise"].map(k => [k, k]) },
      { kind: "choice", key: "activation", label: "φ", options: [["tanh", "tanh"], ["relu", "relu"]] },
      { kind: "range", key: "wx", label: "Wₓ", min: 0, max: 2, step: .1, show: v => number(v, 1) },
      { kind: "range", key: "wh", label: "Wₕ", min: -1.5, max: 1.5, step: .05, show: v => number(v) },
      { kind: "range", key: "steps", label: "unrolled", min: 1, max: 7, step: 1 },
    ],
    every: 1100,
    tick: S => S.t < S.steps ? { t: S.t + 1 } : { t: 1, wh: { "0.5": .9, "0.9": 1.2, "1.2": -.8, "-0.8": .5 }[S.wh] ?? .5 },
    point: (S, D, at) => { const t = +at.split(" ")[2]; return t > 0 ? { t } : undefined; },
    values,
    draw(D, S) {
      const { h, back } = values(D, S), x = D.x[S.input], t = Math.min(S.t, S.steps), W = 84, out = [];
      for (let k = 0; k <= S.steps; k++) {
        const left = 4 + k * W;
        out.push(cell(left, 14, 54, short(h[k]), { h: 34, value: h[k], max: 1.2, at: `h 0 ${k}`, on: k === t && "here", label: `h at step ${k} is ${short(h[k])}` }));
        out.push(text(left + 27, 6, `h${[...String(k)].map(d => "₀₁₂₃₄₅₆₇"[d]).join("")}`, { class: "lf-tick" }));
        if (!k) continue;
        out.push(arrow(left - W + 56, 31, left - 2, 31, { class: k === t ? "lf-marked" : "lf-line" }), text(left - 15, 16, "Wₕ", { class: "lf-tick" }));
        out.push(cell(left + 5, 82, 44, short(x[k - 1]), { h: 30, value: x[k - 1], max: 2 }));
        out.push(arrow(left + 27, 82, left + 27, 51, { class: k === t ? "lf-marked" : "lf-line" }), text(left + 36, 66, "Wₓ", { class: "lf-tick lf-start" }), text(left + 27, 122, `x${"₀₁₂₃₄₅₆₇"[k]}`, { class: "lf-tick" }));
      }
      const T = x.length, floor = 1e-12;
      const size = back.map(v => Math.min(1e6, Math.max(floor, Math.abs(v))));
      const chart = axes({ w: 640, h: 190, x: [0, T], y: [floor, 1e6], log: true, xs: [0, 5, 10, 15, 20, 25, 30], ys: [[1e-12, "10⁻¹²"], [1e-6, "10⁻⁶"], [1, "1"], [1e6, "10⁶"]], xlabel: "t", left: 44 });
      const { X, Y, frame } = chart;
      const many = size.map((v, k) => tag("circle", { cx: X(k), cy: Y(v), r: 3, class: v > 1 ? "lf-fill-pos" : "lf-fill-neg" })).join("");
      const gone = Math.abs(back[0]);
      return {
        panels: [{ title: "the cell, unrolled", w: 64 + 7 * W, h: 130, svg: out.join("") },
          { title: `size of dh₃₀ / dhₜ`, w: 640, h: 190, svg: frame + curve(size.map((v, k) => [X(k), Y(v)]), { class: "lf-line lf-thin" }) + many, label: "how much of the gradient of the last state arrives at each step before" }],
        say: `h${[...String(t)].map(d => "₀₁₂₃₄₅₆₇"[d]).join("")} = ${S.activation}(${short(x[t - 1])}·${number(S.wx, 1)} + ${short(h[t - 1])}·${S.wh < 0 ? `(${number(S.wh)})` : number(S.wh)}) = <b>${short(h[t], 4)}</b>. Over 30 steps a gradient is multiplied by ${compact(back[0])}: `
          + (gone < 1e-3 ? "it <b>vanishes</b>, and what came first cannot be learned." : gone > 1e3 ? "it <b>explodes</b>." : gone < .1 ? "little of it arrives." : "it arrives."),
      };
    },
  });
})();
