// A channel's values, wherever they stand, are one computation. Padding is none of them.
(() => {
  const { tag, text } = Lamina, U = 20;
  // For each sample and channel: rows x columns of values, and whether each is real.
  const places = (D, kind, n) => {
    const shape = D.shapes[kind], [rows, cols] = { table: [1, 1], sequences: [1, shape[1]], images: [shape[1], shape[2]] }[kind];
    return Array.from({ length: rows }, () => Array.from({ length: cols }, (_, j) => kind !== "sequences" || j < D.lengths[n]));
  };
  const count = (D, S) => [...Array(D.shapes[S.kind][0]).keys()].reduce((m, n) => m + places(D, S.kind, n).flat().filter(Boolean).length, 0);
  Lamina.figure("axes", {
    state: { kind: "images", c: 0 },
    controls: [
      { kind: "choice", key: "kind", label: "x is", options: [["table", "a table (N, C)"], ["sequences", "sequences (N, T, C) with lengths"], ["images", "images (N, H, W, C)"]] },
      { kind: "range", key: "c", label: "channel", min: 0, max: 2, step: 1, show: v => v + 1 },
    ],
    every: 1200,
    tick: S => S.c < 2 ? { c: S.c + 1 } : { c: 0, kind: { images: "table", table: "sequences", sequences: "images" }[S.kind] },
    values: (D, S) => ({ M: count(D, S) }),
    draw(D, S) {
      const [N] = D.shapes[S.kind], out = [];
      const one = places(D, S.kind, 0), rows = one.length, cols = one[0].length;
      const w = cols * U + 14, h = rows * U + 8;
      for (let n = 0; n < N; n++) {
        out.push(text(30, 22 + n * h + rows * U / 2, `n = ${n + 1}`, { class: "lf-tick" }));
        for (let c = 0; c < 3; c++) places(D, S.kind, n).forEach((row, i) => row.forEach((real, j) => out.push(tag("rect", {
          x: 60 + c * w + j * U, y: 22 + n * h + i * U, width: U - 2, height: U - 2, rx: 2,
          class: `lf-box${c === S.c && real ? " lf-shared" : ""}`, "stroke-dasharray": real ? undefined : "2 3" }))));
      }
      for (let c = 0; c < 3; c++) out.push(text(60 + c * w + cols * U / 2, 10, `c = ${c + 1}`, { class: "lf-tick" }));
      return {
        panels: [{ w: 60 + 3 * w, h: 22 + N * h, label: "the values of x by sample and channel; those of one channel are marked", svg: out.join("") }],
        say: `Channel ${S.c + 1} has one μ and one σ², of M = ${count(D, S)} values: all samples${{ table: "", sequences: ", all real steps; padding (dashed) counts for nothing", images: ", all rows, all columns" }[S.kind]}.`,
      };
    },
  });
})();
