// A kernel slides over an image; backward, an input gathers from all outputs that met it.
(() => {
  const { cell, text, short } = Lamina, n = 7, K = 3, C = 24;
  const size = S => Math.floor((n + 2 * S.padding - S.dilation * (K - 1) - 1) / S.stride) + 1;
  const taps = [...Array(K * K).keys()].map(k => [Math.floor(k / K), k % K]);
  const pixel = (S, r, c) => r < 0 || c < 0 || r >= n || c >= n ? 0 : +S.image[r * n + c];
  // The input that output (i, j) meets with tap (u, v), in coordinates of x.
  const met = (S, i, j, u, v) => [i * S.stride + u * S.dilation - S.padding, j * S.stride + v * S.dilation - S.padding];
  const forward = (D, S) => {
    const W = D.kernels[S.kernel], q = size(S);
    return Array.from({ length: q }, (_, i) => Array.from({ length: q }, (_, j) =>
      taps.reduce((sum, [u, v]) => sum + pixel(S, ...met(S, i, j, u, v)) * W[u][v], 0)));
  };
  // The outputs that met input (r, c), and by which tap.
  const outputs = (S, r, c) => taps.flatMap(([u, v]) => {
    const i = (r + S.padding - u * S.dilation) / S.stride, j = (c + S.padding - v * S.dilation) / S.stride, q = size(S);
    return Number.isInteger(i) && Number.isInteger(j) && i >= 0 && j >= 0 && i < q && j < q ? [[i, j, u, v]] : [];
  });
  const values = (D, S) => {
    const y = forward(D, S), W = D.kernels[S.kernel];
    const dx = Array.from({ length: n }, (_, r) => Array.from({ length: n }, (_, c) =>
      outputs(S, r, c).reduce((sum, [i, j, u, v]) => sum + y[i][j] * W[u][v], 0)));
    return { y, dx };
  };
  const signed = v => v < 0 ? `(${short(v)})` : short(v);

  function draw(D, S) {
    const { y, dx } = values(D, S), W = D.kernels[S.kernel], q = y.length, p = S.padding, back = S.view === "backward";
    const i = Math.min(S.i, q - 1), j = Math.min(S.j, q - 1), r = S.r, c = S.c;
    const inside = new Set(taps.map(([u, v]) => met(S, i, j, u, v).join())), went = outputs(S, r, c);
    const off = (2 - p) * C, X = [], Y = [], k = [];
    const most = Math.max(1, ...dx.flat().map(Math.abs)), high = Math.max(1, ...y.flat().map(Math.abs));
    for (let a = -p; a < n + p; a++) for (let b = -p; b < n + p; b++) {
      const pad = a < 0 || b < 0 || a >= n || b >= n, v = back ? (pad ? 0 : dx[a][b]) : pixel(S, a, b);
      const on = back ? a === r && b === c && "here" : inside.has(`${a},${b}`) && "yes";
      X.push(cell(off + (b + p) * C, (a + p) * C, C, pad && back ? "" : short(v), { value: v, max: back ? most : 4, on, mark: pad && "pad",
        at: pad ? undefined : `x ${a} ${b}`, label: back ? `gradient of the input in row ${a + 1}, column ${b + 1}: ${short(v)}` : `input in row ${a + 1}, column ${b + 1}: ${v}; press to change` }));
    }
    const reached = new Map(went.map(([a, b, u, v]) => [`${a},${b}`, [u, v]]));
    for (let a = 0; a < q; a++) for (let b = 0; b < q; b++) {
      const on = back ? reached.has(`${a},${b}`) && "yes" : a === i && b === j && "here";
      Y.push(cell((9 - q) / 2 * 26 + b * 26, a * 26, 26, short(y[a][b]), { value: y[a][b], max: high, on,
        at: back ? undefined : `y ${a} ${b}`, label: `output in row ${a + 1}, column ${b + 1}: ${short(y[a][b])}` }));
    }
    const used = new Set(went.map(([, , u, v]) => `${u},${v}`));
    taps.forEach(([u, v]) => k.push(cell(v * 30, u * 30, 30, short(W[u][v]), { value: W[u][v], max: 5, on: (!back || used.has(`${u},${v}`)) && "yes" })));
    const terms = back ? went.map(([a, b, u, v]) => [y[a][b], W[u][v]]) : taps.map(([u, v]) => [pixel(S, ...met(S, i, j, u, v)), W[u][v]]);
    const shown = terms.filter(([a, b]) => a * b !== 0).map(([a, b]) => `${signed(a)}·${signed(b)}`);
    const sum = `${shown.join(" + ") || "nothing but zeros"} = <b>${short(back ? dx[r][c] : y[i][j])}</b>`;
    return {
      panels: [
        { title: back ? "dx" : p ? "x, with its padding" : "x", w: 11 * C, h: 11 * C, svg: X.join("") },
        { title: "kernel W", w: 90, h: 90, svg: k.join("") },
        { title: back ? "dy" : "y", w: 9 * 26, h: 9 * 26, svg: Y.join("") },
      ],
      say: back ? `dx in row ${r + 1}, column ${c + 1}. This input was met by ${went.length} output${went.length === 1 ? "" : "s, each through another weight"}: ${sum}`
        : `y in row ${i + 1}, column ${j + 1}: ${sum}`,
    };
  }
  Lamina.figure("convolution", {
    state: { view: "forward", kernel: "edges, left to right", stride: 1, padding: 0, dilation: 1, i: 1, j: 2, r: 2, c: 3,
      image: "0000000" + "0033000" + "0033000" + "0003300" + "0003300" + "0000330" + "0000000" },
    controls: [
      { kind: "choice", key: "view", label: "show", options: [["forward", "forward: y from x"], ["backward", "backward: dx from dy = y"]] },
      { kind: "choice", key: "kernel", label: "kernel", options: ["edges, left to right", "edges, top to bottom", "sharpen", "sum of the neighbours", "nothing (identity)"].map(k => [k, k]) },
      { kind: "range", key: "stride", label: "stride", min: 1, max: 3, step: 1 },
      { kind: "range", key: "padding", label: "padding", min: 0, max: 2, step: 1 },
      { kind: "range", key: "dilation", label: "dilation", min: 1, max: 2, step: 1 },
    ],
    every: 700,
    tick(S) {
      if (S.view === "backward") return { c: (S.c + 1) % n, r: S.c + 1 < n ? S.r : (S.r + 1) % n };
      const q = size(S), j = S.j + 1;
      return j < q ? { j } : { j: 0, i: (S.i + 1) % q };
    },
    point(S, D, at, how) {
      const [kind, i, j] = at.split(" ");
      if (kind === "y") return { i: +i, j: +j };
      if (S.view === "backward") return { r: +i, c: +j };
      if (how !== "click") return undefined;
      const place = +i * n + +j;
      return { image: S.image.slice(0, place) + (+S.image[place] + 1) % 4 + S.image.slice(place + 1) };
    },
    values, draw,
  });
})();
