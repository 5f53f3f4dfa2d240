// Python in a thread of its own: the page stays alive whatever a program does.
let ready;
async function start(base) {
  const python = `${base}python/`;
  importScripts(`${python}pyodide.js`);
  const py = await loadPyodide({ indexURL: python });
  await py.loadPackage("numpy");
  const sources = await fetch(`${python}lamina.zip`);
  py.unpackArchive(await sources.arrayBuffer(), "zip");
  return py;
}
onmessage = async ({ data: { id, code, base } }) => {
  let text = "", ok = true;
  const add = s => { text += `${s}\n`; };
  let from = performance.now();
  try {
    // What could not be loaded is tried again by the next run.
    const py = await (ready ??= start(base).catch(error => { ready = undefined; throw error; }));
    py.setStdout({ batched: add });
    py.setStderr({ batched: add });
    from = performance.now();
    const scope = py.globals.get("dict")();
    await py.runPythonAsync(code, { globals: scope });
    scope.destroy();
  } catch (error) {
    ok = false;
    text += String(error.message ?? error);
  }
  postMessage({ id, ok, text, seconds: (performance.now() - from) / 1000 });
};
