// The values that share a mean and a variance: those that differ along the chosen axes alone.
// Padding is none of them.
(() => {
  const { tag, text } = Lamina, U = 20;
  const over = (D, S) => [...D.axes[S.kind]].map(axis => S[axis]);
  // All values, each with its index, its row and column in the picture, and whether it is real.
  const values = (D, S) => {
    const shape = D.shapes[S.kind], [N, C] = [shape[0], shape.at(-1)];
    const [rows, cols] = { table: [1, 1], sequences: [1, shape[1]], images: [shape[1], shape[2]] }[S.kind], all = [];
    for (let n = 0; n < N; n++) for (let i = 0; i < rows; i++) for (let c = 0; c < C; c++) for (let j = 0; j < cols; j++)
      all.push({ at: { table: [n, c], sequences: [n, j, c], images: [n, i, j, c] }[S.kind], n, i, j, c, row: n * rows + i, column: c * cols + j,
        real: S.kind !== "sequences" || j < D.lengths[n] });
    return { all, N, C, rows, cols };
  };
  const group = (D, S, all) => {
    const shared = over(D, S), key = v => v.at.filter((_, axis) => !shared[axis]).join();
    const chosen = all.find(v => v.row === S.row && v.column === S.column && v.real) ?? all[0];
    return { key, chosen, same: v => v.real && key(v) === key(chosen) };
  };
  const counts = (D, S) => {
    const { all } = values(D, S), { key, same } = group(D, S, all);
    return { M: all.filter(same).length, means: new Set(all.filter(v => v.real).map(key)).size };
  };
  const names = {
    images: { NHW: "This is BatchNorm.", HWC: "This is layer normalization: every sample by itself.", HW: "This is instance normalization: every channel of every sample by itself.", C: "This is layer normalization of each pixel." },
    sequences: { NT: "This is BatchNorm.", TC: "Every sequence by itself.", T: "This is instance normalization: every channel of every sequence by itself.", C: "This is layer normalization: every step by itself." },
    table: { N: "This is BatchNorm.", C: "This is layer normalization: every sample by itself." },
  };
  const check = axis => ({ kind: "check", key: axis, label: axis, when: (S, D) => D.axes[S.kind].includes(axis) });
  const first = { row: 0, column: 0 };
  const ours = { N: true, T: true, H: true, W: true, C: false };
  Lamina.figure("axes", {
    state: { kind: "images", ...ours, ...first },
    controls: [
      { kind: "choice", key: "kind", label: "x is", options: [["table", "a table (N, C)"], ["sequences", "sequences (N, T, C) with lengths"], ["images", "images (N, H, W, C)"]], also: () => first },
      { kind: "words", label: "one mean over" }, ..."NTHWC".split("").map(check),
      { kind: "button", label: "As BatchNorm", act: () => ours },
    ],
    every: 1200,
    tick(S, D) {
      const { cols, C } = values(D, S), column = S.column + cols;
      return column < C * cols ? { column, row: 0 } : { ...first, kind: { images: "table", table: "sequences", sequences: "images" }[S.kind] };
    },
    values: counts,
    point: (S, D, at) => { const [, row, column] = at.split(" ").map(Number); return { row, column }; },
    draw(D, S) {
      const { all, N, C, rows, cols } = values(D, S), { chosen, same } = group(D, S, all), { M, means } = counts(D, S);
      const w = cols * U + 14, h = rows * U + 8, out = [];
      for (let n = 0; n < N; n++) out.push(text(28, 22 + n * h + rows * U / 2, `n = ${n + 1}`, { class: "lf-tick" }));
      for (let c = 0; c < C; c++) out.push(text(60 + c * w + cols * U / 2, 10, `c = ${c + 1}`, { class: "lf-tick" }));
      for (const v of all) {
        const marked = same(v), here = v === chosen;
        const cls = ["lf-box", "lf-pick", marked && "lf-shared", here && "lf-here"].filter(Boolean).join(" ");
        const box = { x: 60 + v.c * w + v.j * U, y: 22 + v.n * h + v.i * U, width: U - 2, height: U - 2, rx: 2, class: cls };
        out.push(v.real
          ? tag("rect", { ...box, "data-at": `x ${v.row} ${v.column}`, role: "button", tabindex: here ? 0 : -1, "aria-pressed": marked,
            "aria-label": `the value at ${[...D.axes[S.kind]].map((axis, k) => `${axis} ${v.at[k] + 1}`).join(", ")}` })
          : tag("rect", { ...box, class: "lf-box", "stroke-dasharray": "2 3" }));
      }
      const shared = [...D.axes[S.kind]].filter((_, k) => over(D, S)[k]);
      const said = shared.length > 1 ? `${shared.slice(0, -1).join(", ")} and ${shared.at(-1)}` : shared[0];
      return {
        panels: [{ w: 60 + C * w, h: 22 + N * h, label: "the values of x by sample and channel; those that share a mean are marked", svg: out.join("") }],
        say: !shared.length ? "No axis is left to average over: each value is its own mean, and x̂ is 0 everywhere."
          : `Over ${said}: ${means} mean${means > 1 ? "s" : ""} and variance${means > 1 ? "s" : ""}, the marked one of M = ${M} value${M > 1 ? "s" : ""}. ${shared.length === D.axes[S.kind].length ? "All values are one computation." : names[S.kind][shared.join("")] ?? ""}${S.kind === "sequences" ? " Padding (dashed) counts for nothing." : ""}`,
      };
    },
  });
})();
