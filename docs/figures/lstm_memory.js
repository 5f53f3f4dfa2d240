// A trained LSTM of one unit at work: its gates, its cell, and the way of the gradient.
(() => {
  const { axes, curve, line, tag, text, cell, number, short } = Lamina;
  const sigmoid = a => .5 * Math.tanh(.5 * a) + .5;
  const clamps = { "none": null, "i = 1": [0, 1], "f = 0.8": [1, .8], "f = 0": [1, 0], "o = 0": [3, 0] };
  const values = (D, S) => {
    const x = D.x[S.n - 1], clamp = clamps[S.clamp], { weight_x: Wx, weight_h: Wh, bias: b } = D.lstm;
    const h = [0], c = [0], gates = [];
    x.forEach(([bit, mark], t) => {
      const a = [0, 1, 2, 3].map(k => bit * Wx[0][k] + mark * Wx[1][k] + h[t] * Wh[0][k] + b[k]);
      const g = [sigmoid(a[0]), sigmoid(a[1]), Math.tanh(a[2]), sigmoid(a[3])];
      if (clamp) g[clamp[0]] = clamp[1];
      gates.push(g);
      c.push(g[1] * c[t] + g[0] * g[2]);
      h.push(g[3] * Math.tanh(c[t + 1]));
    });
    const back = [];
    for (let t = x.length, dh = 1, dc = 0; t > 0; t--) {
      const [i, f, g, o] = gates[t - 1], th = Math.tanh(c[t]);
      dc += dh * o * (1 - th * th);
      back.unshift(Math.abs(dc));
      const da = [dc * g * i * (1 - i), dc * c[t - 1] * f * (1 - f), dc * i * (1 - g * g), dh * th * o * (1 - o)];
      if (clamp) da[clamp[0]] = 0;
      dh = da.reduce((s, v, k) => s + v * Wh[0][k], 0);
      dc *= f;
    }
    const R = D.rnn, slopes = [];
    let r = 0;
    x.forEach(([bit, mark]) => { r = Math.tanh(bit * R.weight_x[0][0] + mark * R.weight_x[1][0] + r * R.weight_h[0][0] + R.bias[0]); slopes.push((1 - r * r) * R.weight_h[0][0]); });
    const rnn = slopes.map((_, t) => Math.abs(slopes.slice(t + 1).reduce((p, s) => p * s, 1)));
    return { h, c, gates, back, rnn };
  };
  Lamina.figure("lstm_memory", {
    state: { n: 1, t: 4, clamp: "none" },
    controls: [
      { kind: "range", key: "n", label: "sequence", min: 1, max: 6, step: 1 },
      { kind: "range", key: "t", label: "step", min: 1, max: 20, step: 1 },
      { kind: "choice", key: "clamp", label: "hold a gate", options: Object.keys(clamps).map(k => [k, k]) },
    ],
    every: 500,
    tick: S => S.t < 20 ? { t: S.t + 1 } : { t: 1, n: S.n % 6 + 1 },
    values,
    draw(D, S) {
      const v = values(D, S), x = D.x[S.n - 1], T = x.length, w = 320, h = 150;
      const at = k => line(k.X(S.t), 6, k.X(S.t), h - 34, { class: "lf-marked", style: "stroke-width:1.2" });
      const one = axes({ w, h, x: [0, T], y: [0, 1], xs: [0, 5, 10, 15, 20], ys: [[0], [.5], [1]], xlabel: "step t", left: 28 });
      const steps = (k, cls) => curve(v.gates.map((g, t) => [one.X(t + 1), one.Y(g[k])]), { class: cls });
      const big = Math.ceil(Math.max(1.2, ...v.c.map(Math.abs)));
      const two = axes({ w, h, x: [0, T], y: [-big, big], xs: [0, 5, 10, 15, 20], ys: [[-big], [0], [big]], xlabel: "step t", left: 28 });
      const low = 1e-8, clip = u => Math.min(10, Math.max(low, u));
      const three = axes({ w, h, x: [0, T], y: [low, 10], log: true, xs: [0, 5, 10, 15, 20], ys: [[1e-8, "10⁻⁸"], [1e-4, "10⁻⁴"], [1, "1"]], xlabel: "step t", left: 40 });
      const bits = x.map(([bit], t) => cell(8 + t * 31, 2, 30, bit > 0 ? "1" : "0", { h: 26, value: bit, max: 1, on: t + 1 === S.t && "yes" })).join("");
      const [i, f, g, o] = v.gates[S.t - 1];
      return {
        panels: [
          { title: "the bits; the first is the one to remember", w: 636, h: 30, svg: bits },
          { title: "gates", w, h, svg: one.frame + steps(0, "lf-neg") + steps(1, "lf-pos") + steps(3, "lf-good-line") + at(one) },
          { title: "cell and output", w, h, svg: two.frame + curve(v.c.map((u, t) => [two.X(t), two.Y(u)]), { class: "lf-pos" }) + curve(v.h.map((u, t) => [two.X(t), two.Y(u)]), { class: "lf-neg" }) + at(two) },
          { title: "gradient of the last output", w, h, svg: three.frame + curve(v.back.map((u, t) => [three.X(t + 1), three.Y(clip(u))]), { class: "lf-pos" }) + curve(v.rnn.map((u, t) => [three.X(t + 1), three.Y(clip(u))]), { class: "lf-neg" }) },
        ],
        say: `Gates: <span class="lf-key neg">i</span> <span class="lf-key pos">f</span> <span class="lf-key good">o</span>. Cell: <span class="lf-key pos">c</span> <span class="lf-key neg">h</span>. Gradient: <span class="lf-key pos">by the LSTM's cell</span> <span class="lf-key neg">by the RNN's state</span>. `
          + `Step ${S.t}: i ${number(i)}, f ${number(f)}, g ${number(g)}, o ${number(o)}, c ${number(v.c[S.t])}. Of 1000 new sequences the LSTM${S.clamp === "none" ? "" : ", no gate held,"} tells the first bit of ${(100 * D.lstm.right).toFixed(1)}%, an RNN of one unit trained alike of ${(100 * D.rnn.right).toFixed(1)}%.`,
      };
    },
  });
})();
