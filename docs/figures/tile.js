// A register tile: at each step one element of each of its rows of A and a row of B make a product
// for each of its sums.
(() => {
  const { tag, text } = Lamina, U = 15;
  const terms = D => D.segments.reduce((a, b) => a + b);
  const rect = (x, y, w, h, o) => tag("rect", { x, y, width: w, height: h, ...o });
  const grid = (x, y, rows, cols) => Array.from({ length: rows }, (_, i) => Array.from({ length: cols }, (_, j) =>
    rect(x + j * U, y + i * U, U - 1, U - 1, { class: "lf-box" })).join("")).join("");
  Lamina.figure("tile", {
    state: { tile: 0, k: 3 },
    controls: [
      { kind: "range", key: "tile", label: "tile", min: 0, max: 3, step: 1, max_of: D => D.tiles.length - 1, show: v => v + 1 },
      { kind: "range", key: "k", label: "step", min: 0, max: 17, step: 1, max_of: D => terms(D) - 1, show: v => v + 1 },
    ],
    every: 420,
    tick: (S, D) => S.k + 1 < terms(D) ? { k: S.k + 1 } : { k: 0, tile: (S.tile + 1) % D.tiles.length },
    values: D => ({ multiply_adds: D.tiles.length * D.tile[0] * D.tile[1] * terms(D) }),
    draw(D, S) {
      const [rows, wide] = D.tile, t = D.tiles[Math.min(S.tile, D.tiles.length - 1)], k = Math.min(S.k, terms(D) - 1);
      let s = 0, i = k;
      while (i >= D.segments[s]) i -= D.segments[s++];
      const gap = 14, top = 22, ax = 2, bx = ax + D.a[1] * U + gap + 10, by = top, depth = terms(D) + D.segments.length - 1;
      const cy = by + depth * U + gap + 16, out = [];
      // A beside C, B above it: where a row of A and a column of B cross, C has their product.
      out.push(grid(ax, cy, D.a[0], D.a[1]), grid(bx, cy, D.c[0], D.c[1]));
      let line = 0;
      D.segments.forEach((n, seg) => {
        out.push(grid(bx, by + line * U, n, D.c[1]));
        if (D.parts[seg]) out.push(text(bx - 8, by + (line + n / 2) * U, D.parts[seg], { class: "lf-note lf-end" }));
        if (seg === s) out.push(rect(bx + t.c[1] * U, by + (line + i) * U, wide * U - 1, U - 1, { class: "lf-hot-b" }));
        line += n + 1;
      });
      for (let m = 0; m < rows; m++) {
        const [r, c] = t.at[s], y = cy + (r + m * D.step[0]) * U, x = ax + (c + m * D.step[1]) * U;
        out.push(rect(x, y, D.segments[s] * U - 1, U - 1, { class: "lf-warm" }), rect(x + i * U, y, U - 1, U - 1, { class: "lf-hot-a" }));
      }
      D.tiles.slice(0, S.tile).forEach(d => out.push(rect(bx + d.c[1] * U, cy + d.c[0] * U, wide * U - 1, rows * U - 1, { class: "lf-done" })));
      out.push(rect(bx + t.c[1] * U, cy + t.c[0] * U, wide * U - 1, rows * U - 1, { class: "lf-tile", style: `--done:${Math.round(10 + 60 * (k + 1) / terms(D))}%` }));
      const h = Math.max(D.a[0], D.c[0]) * U;
      const [a, b, c] = D.names;
      out.push(text(bx + D.c[1] * U / 2, 9, b, { class: "lf-head" }), text(ax, cy - 11, a, { class: "lf-head lf-start" }), text(bx + D.c[1] * U + 6, cy + 8, c.split(",")[0], { class: "lf-head lf-start" }));
      return {
        panels: [{ w: bx + D.c[1] * U + 34, h: cy + h + 4, label: "a register tile, the elements that it reads at this step, and its sums", svg: out.join("") }],
        say: `Step ${k + 1} of ${terms(D)}${D.parts.length ? `, ${D.parts[s]}` : ""}. Read: ${rows} elements, one for each ${D.row} of the tile, and ${wide} weights. Computed: ${rows * wide} multiply-adds, into ${rows * wide} sums that stay in registers until the last step.`,
      };
    },
  });
})();
