// A vector of counters, one a lane: each becomes four words, and each word the fate of a unit. What
// the backward pass needs of it is drawn again.
(() => {
  const { cell, number, short, text, arrow, philox } = Lamina;
  const values = (D, S) => {
    const words = Array.from({ length: D.lanes }, (_, block) => philox([block, S.sample, 0, S.call], D.key));
    const limit = Math.round(S.rate * 2 ** 32), given = D[S.phase === "forward" ? "x" : "dy"][S.sample];
    return { words, limit, given, out: given.map((v, u) => words[u >> 2][u % 4] >= limit ? v / (1 - S.rate) : 0) };
  };
  const slider = (key, label, max, step = 1) => ({ kind: "range", key, label, min: 0, max, step, show: v => short(v, 2) });
  Lamina.figure("philox", {
    state: { phase: "forward", rate: .5, sample: 1, call: 7 },
    controls: [
      { kind: "choice", key: "phase", label: "pass", options: [["forward", "forward"], ["backward", "backward"]] },
      slider("sample", "sample id", 2), slider("call", "call", 9), slider("rate", "rate p", .9, .1),
    ],
    every: 2200,
    tick: (S, D) => S.phase === "forward" ? { phase: "backward" } : { phase: "forward", call: (S.call + 1) % 10 },
    values,
    draw(D, S) {
      const v = values(D, S), W = 36, H = 34, left = 92, right = left + 4 * W + 30, top = 24, out = [];
      const [from, to] = S.phase === "forward" ? ["x", "y"] : ["dy", "dx"];
      out.push(text(left / 2 - 8, 10, "counter", { class: "lf-head" }), text(left + 2 * W, 10, "its four words", { class: "lf-head" }), text(right + 2 * W, 10, to, { class: "lf-head" }));
      v.words.forEach((words, lane) => {
        const y = top + lane * H, middle = y + H / 2;
        out.push(text(left / 2 - 8, middle, `(${lane}, ${S.sample}, 0, ${S.call})`), arrow(left - 15, middle, left - 3, middle, { class: "lf-line" }), arrow(right - 24, middle, right - 5, middle, { class: "lf-line" }));
        words.forEach((word, k) => {
          const u = 4 * lane + k, kept = word >= v.limit;
          out.push(cell(left + k * W, y, W, word.toString(16).padStart(8, "0").slice(0, 4), { h: H, mark: kept ? "" : "pad" }));
          out.push(cell(right + k * W, y, W, kept ? short(v.out[u], 1) : "", { h: H, value: v.out[u], max: 3, mark: kept ? "" : "pad" }));
        });
      });
      const kept = v.words.flat().filter(w => w >= v.limit).length;
      return {
        panels: [{ w: right + 4 * W + 2, h: top + D.lanes * H + 2, label: "four counters, the sixteen words made of them, and the sixteen units that these keep or drop", svg: out.join("") }],
        say: `A row is a lane of a vector: block, sample id (two words) and call are a counter, which Philox turns into four words (the first half of each is shown, in base 16). ${kept} of 16 are not below p·2³² = ${v.limit.toString(16).padStart(8, "0").slice(0, 4)}…: their units of ${from} are kept, times ${number(1 / (1 - S.rate))}. `
          + (S.phase === "forward" ? "The words go no further than registers." : "The same counters give the same words, so nothing had to be stored since the forward pass."),
      };
    },
  });
})();
