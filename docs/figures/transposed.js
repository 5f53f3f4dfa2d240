// Each input lays a grid of weights on y, a stride from its neighbour's; what overlaps adds up.
(() => {
  const { cell, short } = Lamina, n = 3, K = 3, C = 26;
  const size = S => (n - 1) * S.stride + K - 2 * S.padding;
  const taps = [...Array(K * K).keys()].map(k => [Math.floor(k / K), k % K]);
  const pixel = (S, r, c) => +S.image[r * n + c];
  // Where on y input (r, c) lays tap (u, v); the padding takes away what is outside.
  const place = (S, r, c, u, v) => [r * S.stride + u - S.padding, c * S.stride + v - S.padding];
  const inside = (S, [i, j]) => i >= 0 && j >= 0 && i < size(S) && j < size(S);
  // y after so many inputs, in the order of reading.
  const laid = (D, S, count) => {
    const y = Array.from({ length: size(S) }, () => Array(size(S)).fill(0));
    for (let k = 0; k < count; k++) for (const [u, v] of taps) {
      const r = Math.floor(k / n), c = k % n, at = place(S, r, c, u, v);
      if (inside(S, at)) y[at[0]][at[1]] += pixel(S, r, c) * D.kernels[S.kernel][u][v];
    }
    return y;
  };
  const values = (D, S) => ({ y: laid(D, S, n * n) });
  // The inputs that reach output (i, j), each by another tap.
  const reach = (S, i, j) => taps.flatMap(([u, v]) => {
    const r = (i + S.padding - u) / S.stride, c = (j + S.padding - v) / S.stride;
    return Number.isInteger(r) && Number.isInteger(c) && r >= 0 && c >= 0 && r < n && c < n ? [[r, c, u, v]] : [];
  });

  function draw(D, S) {
    const W = D.kernels[S.kernel], q = size(S), gather = S.view === "gather", { r, c } = S;
    const i = Math.min(S.i, q - 1), j = Math.min(S.j, q - 1), from = reach(S, i, j);
    const y = gather ? values(D, S).y : laid(D, S, r * n + c + 1);
    const most = Math.max(1, ...values(D, S).y.flat()), step = gather ? 0 : r * n + c + 1;
    const grid = new Set(taps.map(([u, v]) => place(S, r, c, u, v).join()));
    const lays = new Set(from.map(([a, b]) => `${a},${b}`)), used = new Set(from.map(([, , u, v]) => `${u},${v}`));
    const X = [], Y = [], k = [];
    for (let a = 0; a < n; a++) for (let b = 0; b < n; b++) {
      const v = pixel(S, a, b), chosen = gather ? lays.has(`${a},${b}`) && "yes" : a === r && b === c && "here";
      X.push(cell(b * 30, a * 30, 30, short(v), { value: v, max: 4, on: chosen, mark: !gather && a * n + b >= step && "off",
        at: `x ${a} ${b}`, label: `input in row ${a + 1}, column ${b + 1}: ${v}; press to change` }));
    }
    for (const [u, v] of taps) k.push(cell(v * 30, u * 30, 30, short(W[u][v]), { value: W[u][v], max: 5, on: (!gather || used.has(`${u},${v}`)) && "yes" }));
    for (let a = 0; a < q; a++) for (let b = 0; b < q; b++) {
      const chosen = gather ? a === i && b === j && "here" : grid.has(`${a},${b}`) && "yes";
      Y.push(cell((9 - q) / 2 * C + b * C, a * C, C, short(y[a][b]), { value: y[a][b], max: most, on: chosen,
        at: gather ? `y ${a} ${b}` : undefined, label: `output in row ${a + 1}, column ${b + 1}: ${short(y[a][b])}` }));
    }
    const away = taps.filter(([u, v]) => !inside(S, place(S, r, c, u, v))).length;
    const terms = from.map(([a, b, u, v]) => `${pixel(S, a, b)}·${short(W[u][v])}`).join(" + ");
    return {
      panels: [
        { title: "x", w: n * 30, h: n * 30, svg: X.join("") },
        { title: "kernel W", w: K * 30, h: K * 30, svg: k.join("") },
        { title: gather ? "y" : `y after ${step} of ${n * n}`, w: 9 * C, h: 9 * C, svg: Y.join("") },
      ],
      say: gather ? `y in row ${i + 1}, column ${j + 1}, is reached by ${from.length === 1 ? "one input" : `${from.length || "no"} inputs`}: ${terms || "nothing"} = <b>${short(y[i][j])}</b>`
        : `x in row ${r + 1}, column ${c + 1}, lays <b>${pixel(S, r, c)}</b> times the kernel on y and adds it to what is there${away ? `; ${away} of its ${K * K} places are padding, which is taken away` : ""}.`,
    };
  }
  Lamina.figure("transposed", {
    state: { view: "lay", kernel: "all one", stride: 2, padding: 0, r: 1, c: 1, i: 2, j: 2, image: "111121111" },
    controls: [
      { kind: "choice", key: "view", label: "show", options: [["lay", "what an input lays on y"], ["gather", "what an output is made of"]] },
      { kind: "choice", key: "kernel", label: "kernel", options: ["all one", "tent", "corners"].map(k => [k, k]) },
      { kind: "range", key: "stride", label: "stride", min: 1, max: 3, step: 1 },
      { kind: "range", key: "padding", label: "padding", min: 0, max: 1, step: 1 },
    ],
    every: 900,
    tick(S) {
      const q = size(S), [row, column, most] = S.view === "lay" ? ["r", "c", n] : ["i", "j", q];
      return S[column] + 1 < most ? { [column]: S[column] + 1 } : { [column]: 0, [row]: (S[row] + 1) % most };
    },
    point(S, D, at, how) {
      const [kind, a, b] = at.split(" ");
      if (kind === "y") return { i: +a, j: +b };
      const here = S.view === "lay" ? { r: +a, c: +b } : {};
      if (how !== "click") return here;
      const k = +a * n + +b;
      return { ...here, image: S.image.slice(0, k) + (pixel(S, +a, +b) + 1) % 4 + S.image.slice(k + 1) };
    },
    values, draw,
  });
})();
