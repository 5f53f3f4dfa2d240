// Live Python. Nothing is loaded before the reader presses Run.
(() => {
  const base = new URL("./", document.currentScript.src).href;
  let worker, serial = 0;
  const waiting = new Map();
  const end = said => {
    worker?.terminate();
    worker = undefined;
    waiting.forEach(done => done({ ok: false, text: "", said }));
    waiting.clear();
  };
  const run = code => new Promise(done => {
    waiting.set(++serial, done);
    try {
      worker ??= Object.assign(new Worker(`${base}run-worker.js`), {
        onmessage: ({ data }) => { waiting.get(data.id)?.(data); waiting.delete(data.id); },
        onerror: () => end("Python could not be loaded"),
      });
      worker.postMessage({ id: serial, code, base });
    } catch { end("Python cannot run on a page opened so"); }
  });
  class LaminaRun extends HTMLElement {
    connectedCallback() {
      if (this.editor) return;
      const fixed = this.querySelector(".lr-static"), out = this.querySelector(".lr-out");
      const code = fixed.querySelector("pre").textContent.trimEnd();
      const editor = this.editor = document.createElement("textarea");
      Object.assign(editor, { value: code, spellcheck: false, rows: code.split("\n").length + 1, hidden: true });
      editor.setAttribute("aria-label", "Python program");
      const bar = document.createElement("div"), go = document.createElement("button"), edit = document.createElement("button"), note = document.createElement("span");
      bar.className = "lr-bar";
      go.type = edit.type = "button";
      go.textContent = "▶ Run"; edit.textContent = "Edit";
      note.textContent = "in your browser; the first run loads Python, 9 MB";
      const change = () => { editor.hidden = false; fixed.hidden = true; edit.hidden = true; editor.focus(); };
      edit.addEventListener("click", change);
      let running = false;
      go.addEventListener("click", async () => {
        if (running) return end("stopped");
        running = true;
        go.textContent = "■ Stop";
        note.textContent = "running …";
        const { ok, text, seconds, said } = await run(editor.value);
        out.textContent = text;
        this.dataset.done = ok ? "ok" : "error";
        note.textContent = ok ? `ran in your browser in ${seconds.toFixed(2)} s` : said ?? "stopped with an error";
        go.textContent = "▶ Run";
        running = false;
      });
      out.setAttribute("aria-live", "polite");
      out.setAttribute("aria-label", "Output");
      out.setAttribute("role", "region");
      bar.append(go, edit, note);
      fixed.after(editor, bar);
      this.dataset.ready = "1";
    }
  }
  customElements.define("lamina-run", LaminaRun);
})();
