// Each output channel has a kernel with a slice for each input channel; the slices' sums add up.
(() => {
  const { cell, text, short } = Lamina, C = 26;
  const partial = (D, S, c) => [0, 1].reduce((s, u) => s + [0, 1].reduce((t, v) => t + D.x[S.i + u][S.j + v][c] * D.W[u][v][c][+S.o], 0), 0);
  const total = (D, S) => [0, 1, 2].reduce((s, c) => s + partial(D, S, c), 0) + D.b[+S.o];
  Lamina.figure("channels", {
    state: { i: 0, j: 1, o: "0" },
    controls: [{ kind: "choice", key: "o", label: "output channel", options: [["0", "1"], ["1", "2"]] }],
    every: 900,
    tick: S => S.j < 2 ? { j: S.j + 1 } : S.i < 2 ? { j: 0, i: S.i + 1 } : { i: 0, j: 0, o: S.o === "0" ? "1" : "0" },
    point: (S, D, at) => { const [, i, j] = at.split(" "); return { i: +i, j: +j }; },
    values: (D, S) => ({ y: total(D, S) }),
    draw(D, S) {
      const o = +S.o, P = [0, 1, 2].map(c => {
        const out = [];
        for (let a = 0; a < 4; a++) for (let b = 0; b < 4; b++) out.push(cell(b * C, a * C, C, short(D.x[a][b][c]), { value: D.x[a][b][c], max: 5,
          on: a >= S.i && a < S.i + 2 && b >= S.j && b < S.j + 2 && "yes" }));
        out.push(text(4 * C + 12, 2 * C, "·"));
        for (let u = 0; u < 2; u++) for (let v = 0; v < 2; v++) out.push(cell(4 * C + 22 + v * C, C + u * C, C, short(D.W[u][v][c][o]), { value: D.W[u][v][c][o], max: 3, on: "yes" }));
        out.push(text(6 * C + 44, 2 * C, `= ${short(partial(D, S, c))}`, { class: "lf-head" }));
        return { title: `input channel ${c + 1}`, w: 6 * C + 66, h: 4 * C, svg: out.join("") };
      });
      const Y = [];
      for (let a = 0; a < 3; a++) for (let b = 0; b < 3; b++) Y.push(cell(b * 34, a * 34, 34, short(D.y[a][b][o]), { value: D.y[a][b][o], max: 25,
        on: a === S.i && b === S.j && "here", at: `y ${a} ${b}`, label: `output in row ${a + 1}, column ${b + 1}: ${short(D.y[a][b][o])}` }));
      const sums = [0, 1, 2].map(c => short(partial(D, S, c))).join(" + ").replaceAll("+ \u2212", "\u2212 "), b = D.b[o];
      return {
        panels: [...P, { title: `y, output channel ${o + 1}`, w: 102, h: 104, svg: Y.join("") }],
        say: `The three slices of kernel ${o + 1} are summed over their windows, and the sums added up: ${sums} ${b < 0 ? "\u2212" : "+"} ${short(Math.abs(b))} (the bias) = <b>${short(total(D, S))}</b>`,
      };
    },
  });
})();
