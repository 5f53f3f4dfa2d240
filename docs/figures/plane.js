// Two inputs, two outputs: the plane, and where y = x W + b puts it.
(() => {
  const { text, line, arrow, curve, number } = Lamina;
  const shapes = {
    "nothing (identity)": [1, 0, 0, 1, 0, 0], "turn": [.8, .6, -.6, .8, 0, 0], "stretch": [1.5, 0, 0, .5, 0, 0],
    "shear": [1, 0, .8, 1, 0, 0], "mirror": [-1, 0, 0, 1, 0, 0], "flatten to a line": [1, .5, .8, .4, 0, 0], "shift": [1, 0, 0, 1, .8, -.5],
  };
  const names = Object.keys(shapes), keys = ["w11", "w12", "w21", "w22", "b1", "b2"];
  const as = name => Object.fromEntries(keys.map((k, i) => [k, shapes[name][i]]));
  const map = (S, [p, q]) => [p * S.w11 + q * S.w21 + S.b1, p * S.w12 + q * S.w22 + S.b2];
  const U = 42, M = 150, at = ([p, q]) => [M + U * p, M - U * q];
  const range = [-2, -1, 0, 1, 2];
  Lamina.figure("plane", {
    state: { what: "turn", phase: 0, ...as("turn") },
    controls: [
      { kind: "choice", key: "what", label: "let W, b", options: names.map(n => [n, n]), also: v => as(v) },
      ...keys.map(k => ({ kind: "range", key: k, label: `${k[0] === "w" ? "W" : "b"}${[...k.slice(1)].map(d => "₀₁₂"[d]).join("")}`, min: -1.5, max: 1.5, step: .1, show: v => number(v, 1) })),
    ],
    every: 60,
    tick: S => {
      const phase = (S.phase + 1) % (names.length * 40), i = Math.floor(phase / 40), t = Math.max(0, (phase % 40) - 15) / 24;
      const ease = t * t * (3 - 2 * t), from = shapes[names[i]], to = shapes[names[(i + 1) % names.length]];
      return { phase, what: names[t < .5 ? i : (i + 1) % names.length], ...Object.fromEntries(keys.map((k, n) => [k, from[n] + ease * (to[n] - from[n])])) };
    },
    values: (D, S) => ({ points: D.points.map(p => map(S, p)) }),
    draw: (D, S) => {
      const grid = (f, cls) => range.map(v => curve(range.map(u => at(f([v, u]))), { class: cls }) + curve(range.map(u => at(f([u, v]))), { class: cls })).join("");
      const still = line(0, M, 2 * M, M, { class: "lf-grid" }) + line(M, 0, M, 2 * M, { class: "lf-grid" });
      const basis = f => arrow(...at(f([0, 0])), ...at(f([1, 0])), { class: "lf-pos" }) + arrow(...at(f([0, 0])), ...at(f([0, 1])), { class: "lf-neg" });
      const id = p => p, f = p => map(S, p);
      const area = S.w11 * S.w22 - S.w12 * S.w21;
      const thin = "lf-line lf-thin";
      return {
        panels: [
          { title: "x", w: 300, h: 300, label: "the grid before", svg: still + grid(id, thin) + basis(id) },
          { title: "y = x W + b", w: 300, h: 300, label: "the grid after", svg: still + grid(f, thin) + basis(f) },
        ],
        say: `<span class="lf-key pos">row 1 of W is where (1, 0) goes</span>: (${number(S.w11, 1)}, ${number(S.w12, 1)}) + b. <span class="lf-key neg">row 2 is where (0, 1) goes</span>: (${number(S.w21, 1)}, ${number(S.w22, 1)}) + b. Areas are multiplied by det W = ${number(area)}${Math.abs(area) < .05 ? ": the plane is flattened, and what differed can no longer be told apart" : area < 0 ? ": the sign says mirrored" : ""}.`,
      };
    },
  });
})();
