// Linear as a picture: x beside the matrix, y beneath it; a column of W makes an output, a row of W
// sends the gradient back.
(() => {
  const { cell, text, short, arrow, line } = Lamina;
  const C = 46;
  const values = (D, S) => {
    const x = [S.x1, S.x2], dy = [S.d1, S.d2, S.d3], { weight: W, bias: b } = D;
    return {
      y: b.map((bo, o) => x.reduce((sum, xi, i) => sum + xi * W[i][o], bo)),
      dx: W.map(row => row.reduce((sum, w, o) => sum + dy[o] * w, 0)),
      dW: x.map(xi => dy.map(d => xi * d)),
      db: [...dy],
    };
  };
  const sum = terms => terms.join(" + ").replaceAll("+ \u2212", "\u2212 ");

  const forward = (D, S) => {
    const x = [S.x1, S.x2], { weight: W, bias: b } = D, { y } = values(D, S), o = S.out;
    const X = 78, Y = 24, parts = [];
    x.forEach((v, i) => parts.push(text(22, Y + (i + .5) * C, `x${"₁₂"[i]}`, { class: "lf-head" }),
      cell(34, Y + i * C, C - 10, short(v), { value: v, max: 3, h: C }), ));
    b.forEach((_, j) => parts.push(text(X + 22 + (j + .5) * C, 12, `o = ${j + 1}`, { class: "lf-tick" })));
    W.forEach((row, i) => row.forEach((w, j) => parts.push(cell(X + 22 + j * C, Y + i * C, C, short(w), {
      value: w, max: 2, on: j === o && "yes" }))));
    b.forEach((v, j) => parts.push(cell(X + 22 + j * C, Y + 2 * C + 8, C, short(v), { value: v, max: 2, h: C - 12, on: j === o && "yes" })));
    parts.push(text(X + 4, Y + 2 * C + 24, "b", { class: "lf-head" }), text(X + 12, Y + C, "W", { class: "lf-head" }));
    parts.push(arrow(X + 22 + (o + .5) * C, Y + 3 * C, X + 22 + (o + .5) * C, Y + 3 * C + 18, { class: "lf-marked" }));
    y.forEach((v, j) => parts.push(cell(X + 22 + j * C, Y + 3 * C + 20, C, short(v), { value: v, max: 4, at: `y 0 ${j}`,
      on: j === o && "here", label: `output ${j + 1} is ${short(v)}` })));
    parts.push(text(X + 4, Y + 3.5 * C + 20, "y", { class: "lf-head" }));
    // the same weights as edges
    const E = [], ex = 26, ey = i => 60 + i * 74, ox = 190, oy = j => 30 + j * 66;
    W.forEach((row, i) => row.forEach((w, j) => w && E.push(line(ex + 15, ey(i), ox - 15, oy(j), {
      class: w > 0 ? "lf-pos" : "lf-neg", style: `stroke-width:${1 + 2 * Math.abs(w)};stroke-opacity:${j === o ? 1 : .22}` }))));
    x.forEach((v, i) => E.push(`<circle cx="${ex}" cy="${ey(i)}" r="17" class="lf-line" style="fill:var(--color-background-primary)"/>`, text(ex, ey(i), short(v))));
    y.forEach((v, j) => E.push(`<circle cx="${ox}" cy="${oy(j)}" r="19" class="${j === o ? "lf-marked" : "lf-line"}" style="fill:var(--color-background-primary)"/>`, text(ox, oy(j), short(v))));
    const terms = x.map((v, i) => `${short(v)}·${v < 0 || W[i][o] < 0 ? `(${short(W[i][o])})` : short(W[i][o])}`);
    return {
      panels: [{ title: "as a matrix", w: 244, h: 232, svg: parts.join("") }, { title: "as a network", w: 220, h: 196, svg: E.join(""), label: "the same weights as edges between two inputs and three outputs" }],
      say: `<b>y${"₁₂₃"[o]}</b> is column ${o + 1} of W met with x, plus b: ${sum([...terms, short(b[o])])} = <b>${short(y[o])}</b>`,
    };
  };

  const backward = (D, S) => {
    const x = [S.x1, S.x2], dy = [S.d1, S.d2, S.d3], { weight: W } = D, v = values(D, S), i = S.in;
    const X = 70, Y = 24, P = [], G = [];
    dy.forEach((d, j) => P.push(cell(X + 22 + j * C, Y + 2 * C + 26, C, short(d), { value: d, max: 3 })));
    P.push(text(X + 2, Y + 2.5 * C + 26, "dy", { class: "lf-head" }), text(X + 4, Y + C, "W", { class: "lf-head" }));
    W.forEach((row, k) => row.forEach((w, j) => P.push(cell(X + 22 + j * C, Y + k * C, C, short(w), { value: w, max: 2, on: k === i && "yes" }))));
    v.dx.forEach((d, k) => P.push(text(14, Y + (k + .5) * C, `dx${"₁₂"[k]}`, { class: "lf-head" }), cell(30, Y + k * C, C - 6, short(d), {
      value: d, max: 3, h: C, at: `x ${k} 0`, on: k === i && "here", label: `gradient of input ${k + 1} is ${short(d)}` })));
    P.push(arrow(X + 20, Y + (i + .5) * C, X + 2, Y + (i + .5) * C, { class: "lf-marked" }));
    dy.forEach((d, j) => G.push(cell(62 + j * C, 4, C, short(d), { value: d, max: 3, h: C - 10 })));
    x.forEach((a, k) => G.push(cell(12, 48 + k * C, C - 6, short(a), { value: a, max: 3, h: C }), text(58, 48 + (k + .5) * C, "·")));
    v.dW.forEach((row, k) => row.forEach((g, j) => G.push(cell(62 + j * C, 48 + k * C, C, short(g), { value: g, max: 4, on: k === i && "yes" }))));
    G.push(text(32, 22, "x \\ dy", { class: "lf-tick" }));
    const terms = dy.map((d, j) => `${short(d)}·${W[i][j] < 0 ? `(${short(W[i][j])})` : short(W[i][j])}`);
    return {
      panels: [{ title: "dx: dy met with the rows of W", w: 240, h: 192, svg: P.join("") }, { title: "dW: every x by every dy", w: 210, h: 144, svg: G.join(""), label: "the gradient of the weights, an outer product" }],
      say: `<b>dx${"₁₂"[i]}</b> is row ${i + 1} of W met with dy: ${sum(terms)} = <b>${short(v.dx[i])}</b>. The same dy, times x${"₁₂"[i]} = ${short(x[i])}, is row ${i + 1} of dW.`,
    };
  };

  const slider = (key, label, when) => ({ kind: "range", key, label, min: -2, max: 3, step: .5, when });
  Lamina.figure("linear", {
    state: { view: "forward", out: 1, in: 0, x1: 1, x2: 2, d1: 1, d2: 1, d3: 1 },
    controls: [
      { kind: "choice", key: "view", label: "show", options: [["forward", "forward: y from x"], ["backward", "backward: dx, dW from dy"]] },
      slider("x1", "x₁"), slider("x2", "x₂"),
      ...["d1", "d2", "d3"].map((k, j) => slider(k, `dy${"₁₂₃"[j]}`, S => S.view === "backward")),
    ],
    every: 1800,
    tick: S => S.view === "forward" ? (S.out < 2 ? { out: S.out + 1 } : { view: "backward", in: 0 })
      : (S.in < 1 ? { in: 1 } : { view: "forward", out: 0 }),
    point: (S, D, at) => { const [kind, i, j] = at.split(" "); return kind === "y" ? { out: +j } : { in: +i }; },
    values,
    draw: (D, S) => (S.view === "forward" ? forward : backward)(D, S),
  });
})();
