// Units dropped by Lamina's own random numbers.
(() => {
  const { cell, number, short, philox } = Lamina;
  const mask = (D, rate, call) => D.x.map((row, id) => {
    const draws = [];
    for (let block = 0; draws.length < row.length; block++) draws.push(...philox([block, id, 0, call], D.key));
    return row.map((_, u) => draws[u] >= Math.round(rate * 2 ** 32));
  });
  const scales = S => S.mode === "inverted" ? [1 / (1 - S.rate), 1] : [1, 1 - S.rate];
  const values = (D, S) => {
    const [train, infer] = scales(S), kept = D.x.map(row => row.map(() => 0));
    for (let call = 0; call < S.masks; call++) mask(D, S.rate, call).forEach((row, i) => row.forEach((m, j) => { kept[i][j] += m; }));
    const m = mask(D, S.rate, S.call);
    return {
      y: D.x.map((row, i) => row.map((v, j) => S.phase === "training" ? (m[i][j] ? v * train : 0) : v * infer)),
      mean: D.x.map((row, i) => row.map((v, j) => v * train * kept[i][j] / S.masks)),
    };
  };
  const all = a => a.flat().reduce((s, v) => s + v, 0) / a.flat().length;
  const steps = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000];
  Lamina.figure("dropout", {
    state: { phase: "training", mode: "inverted", rate: .5, call: 0, masks: 10 },
    controls: [
      { kind: "choice", key: "phase", label: "pass", options: [["training", "training"], ["inference", "inference"]] },
      { kind: "choice", key: "mode", label: "scale", options: [["inverted", "while training (inverted)"], ["classic", "at inference (classic)"]] },
      { kind: "range", key: "rate", label: "rate p", min: 0, max: .95, step: .05, show: v => number(v) },
      { kind: "button", label: "New mask", act: S => ({ call: (S.call + 1) % 1000, phase: "training" }) },
      { kind: "button", label: "More masks in the mean", act: S => ({ masks: steps[(steps.indexOf(S.masks) + 1) % steps.length] }) },
    ],
    every: 900,
    tick: S => ({ call: (S.call + 1) % 1000, masks: steps[(steps.indexOf(S.masks) + 1) % steps.length] }),
    values,
    draw(D, S) {
      const v = values(D, S), C = 27, most = 4;
      const grid = (a, off) => a.map((row, i) => row.map((u, j) => cell(j * C, i * C, C, off && u === 0 ? "" : short(u, 1), { value: u, max: most, mark: off && u === 0 && "pad" })).join("")).join("");
      const m = mask(D, S.rate, S.call).flat(), dropped = m.filter(k => !k).length;
      const far = Math.max(...D.x.flat().map((x, i) => Math.abs(v.mean.flat()[i] - x * scales(S)[1])));
      const w = 8 * C, h = 4 * C;
      return {
        panels: [{ title: `x, mean ${number(all(D.x))}`, w, h, svg: grid(D.x) },
          { title: `y, mean ${number(all(v.y))}`, w, h, svg: grid(v.y, S.phase === "training") },
          { title: `mean of y over ${S.masks} mask${S.masks > 1 ? "s" : ""}`, w, h, svg: grid(v.mean) }],
        say: (S.phase === "training" ? `This pass drops ${dropped} of 32 units (${Math.round(dropped / .32)}%) and multiplies the others by ${short(scales(S)[0], 2)}. ` : `Inference drops nothing and multiplies by ${short(scales(S)[1], 2)}. `)
          + `The mean over ${S.masks} mask${S.masks > 1 ? "s" : ""} is at most ${number(far)} from what inference gives.`,
      };
    },
  });
})();
