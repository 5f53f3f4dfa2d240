// Draws the first state of a figure: {"name", "data"} comes by stdin, {"picture", "say"} goes to stdout.
import fs from "node:fs";
import vm from "node:vm";

const here = new URL(".", import.meta.url);
const { name, data } = JSON.parse(fs.readFileSync(0, "utf8"));
for (const file of ["core", name]) vm.runInThisContext(fs.readFileSync(new URL(`${file}.js`, here), "utf8"), { filename: `${file}.js` });
const spec = Lamina.figures[name];
process.stdout.write(JSON.stringify(Lamina.picture(spec, data, { ...spec.state })));
