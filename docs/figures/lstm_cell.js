// The cell of an LSTM with its numbers: gates multiply what runs along the lines.
(() => {
  const { tag, text, arrow, line, number } = Lamina;
  const sigmoid = a => .5 * Math.tanh(.5 * a) + .5;
  const values = (D, S) => {
    const a = S.x + S.h, i = sigmoid(a + S.bi), f = sigmoid(a + S.bf), g = Math.tanh(a + S.bg), o = sigmoid(a + S.bo);
    const c_t = f * S.c + i * g;
    return { i, f, g, o, c_t, h_t: o * Math.tanh(c_t) };
  };
  const slider = (key, label, most, step = .5) => ({ kind: "range", key, label, min: -most, max: most, step, show: v => number(v, 1) });
  const show = [{ x: 1, h: .5, c: 1, bi: 0, bf: 0, bo: 0 }, { bf: 6 }, { bf: -6 }, { bf: 6, bi: -6 }, { bo: -6 }, { bo: 0, bi: 0, bf: 0, x: -2 }, { bo: 0, bi: 0, bf: 0, x: 1 }];
  Lamina.figure("lstm_cell", {
    state: { x: 1, h: .5, c: 1, bi: 0, bf: 0, bg: 0, bo: 0, n: 0 },
    controls: [slider("x", "x", 2), slider("h", "h before", 1, .1), slider("c", "c before", 2),
      slider("bi", "push i", 6), slider("bf", "push f", 6), slider("bg", "push g", 6), slider("bo", "push o", 6)],
    every: 2200,
    tick: S => ({ n: (S.n + 1) % show.length, ...show[(S.n + 1) % show.length] }),
    values,
    draw(D, S) {
      const v = values(D, S), out = [], n = u => number(u, 4);
      const wide = (u, cls = "lf-line") => ({ class: cls, style: `stroke-width:${(.6 + 4 * Math.min(1.6, Math.abs(u))).toFixed(2)}` });
      const op = (x, y, s) => out.push(tag("circle", { cx: x, cy: y, r: 13, class: "lf-line", style: "fill:var(--color-background-primary)" }), text(x, y, s, { class: "lf-head" }));
      const gate = (x, name, value, cls) => out.push(
        tag("rect", { x: x - 36, y: 206, width: 72, height: 50, rx: 6, class: "lf-line", style: `fill:color-mix(in srgb, var(--lf-${cls}) ${Math.round(60 * Math.abs(value))}%, var(--color-background-primary))` }),
        text(x, 221, name, { class: "lf-head" }), text(x, 242, n(value)));
      // the line of the cell
      out.push(arrow(66, 50, 104, 50, { class: "lf-pos" }), line(132, 50, 210, 50, wide(v.f * S.c, "lf-pos")), line(238, 50, 430, 50, wide(v.c_t, "lf-pos")), arrow(430, 50, 462, 50, { class: "lf-pos" }));
      out.push(text(34, 40, "c before", { class: "lf-tick" }), text(34, 58, n(S.c), { class: "lf-head" }), text(500, 40, "c", { class: "lf-tick" }), text(500, 58, n(v.c_t), { class: "lf-head" }));
      // gates upwards
      out.push(line(118, 206, 118, 64, wide(v.f)), line(200, 206, 200, 150, wide(v.i)), line(200, 150, 211, 142, wide(v.i)), line(286, 206, 286, 150, wide(v.g)), line(286, 150, 235, 136, wide(v.g)));
      out.push(line(224, 119, 224, 64, wide(v.i * v.g)), line(372, 50, 372, 116, wide(Math.tanh(v.c_t))), line(372, 206, 372, 144, wide(v.o)), line(386, 130, 430, 130, wide(v.h_t, "lf-neg")), arrow(430, 130, 462, 130, { class: "lf-neg" }));
      out.push(text(378, 88, "tanh", { class: "lf-note lf-start" }), text(500, 120, "h = y", { class: "lf-tick" }), text(500, 138, n(v.h_t), { class: "lf-head" }));
      op(118, 50, "⊙"); op(224, 50, "+"); op(224, 133, "⊙"); op(372, 130, "⊙");
      gate(118, "f  keep", v.f, "pos"); gate(200, "i  take in", v.i, "pos"); gate(286, "g  new", v.g, v.g < 0 ? "neg" : "pos"); gate(372, "o  show", v.o, "pos");
      // x and h feed all gates
      out.push(line(60, 290, 372, 290, { class: "lf-line" }), ...[118, 200, 286, 372].map(x => arrow(x, 290, x, 258, { class: "lf-line" })));
      out.push(text(30, 282, `x ${number(S.x, 1)}`, {}), text(30, 300, `h ${number(S.h, 1)}`, {}));
      return {
        panels: [{ w: 540, h: 312, label: "an LSTM cell with the numbers of one step", svg: out.join("") }],
        say: `c = f·c + i·g = ${n(v.f)}·${number(S.c, 1)} + ${n(v.i)}·${v.g < 0 ? `(${n(v.g)})` : n(v.g)} = <b>${n(v.c_t)}</b>; h = o·tanh(c) = ${n(v.o)}·${n(Math.tanh(v.c_t))} = <b>${n(v.h_t)}</b>. Lines are as thick as what they carry.`,
      };
    },
  });
})();
