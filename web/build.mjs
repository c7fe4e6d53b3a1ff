// Makes dist/ of src/: what the server embeds. `--check` compares instead of writing.
//
// Names carry a hash of what they hold, so that browsers may keep them for ever. `files.rs` lists them
// for the compiler. Compressed files are compared by what is in them: compressors differ by version.
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { gunzipSync, gzipSync } from "node:zlib";
import { build, transform } from "esbuild";

/** Bytes of everything, compressed: wanted, and at most. */
const WANTED = 100_000;
const MOST = 150_000;

const root = new URL(".", import.meta.url);
const read = (name) => readFile(new URL(name, root), "utf8");

const script = await build({
  entryPoints: [new URL("src/main.tsx", root).pathname],
  bundle: true,
  minify: true,
  write: false,
  format: "esm",
  target: "es2023",
  jsx: "automatic",
  jsxImportSource: "preact",
  charset: "utf8",
  legalComments: "inline",
});
const minified = async (name, loader) => (await transform(await read(name), { loader, minify: true, charset: "utf8" })).code;
const made = new Map();
const hashed = (stem, ending, text) => {
  const hash = createHash("sha256").update(text).digest("hex").slice(0, 10);
  const name = `${stem}-${hash}.${ending}`;
  made.set(name, text);
  return name;
};
const names = {
  THEME: hashed("theme", "js", await minified("src/theme.js", "js")),
  STYLE: hashed("style", "css", await minified("src/style.css", "css")),
  APP: hashed("app", "js", script.outputFiles[0].text),
};
let index = await read("src/index.html");
for (const [word, name] of Object.entries(names)) index = index.replace(word, name);
made.set("index.html", index);

const packed = new Map([...made].map(([name, text]) => [name, gzipSync(Buffer.from(text), { level: 9 })]));
const size = [...packed.values()].reduce((sum, bytes) => sum + bytes.length, 0);
const list = [...made.keys()].sort().map((name) => `    File {
        name: "${name}",
        plain: include_bytes!("${name}"),
        packed: include_bytes!("${name}.gz"),
    },`);
made.set("files.rs", `// Made by web/build.mjs of web/src.\n&[\n${list.join("\n")}\n]\n`);

const dist = new URL("dist/", root);
const wrong = [];
if (process.argv.includes("--check")) {
  const there = new Set(await readdir(dist).catch(() => []));
  for (const [name, text] of made) {
    const found = there.has(name) ? await readFile(new URL(name, dist), "utf8") : null;
    if (found !== text) wrong.push(`dist/${name} is ${found === null ? "missing" : "not what src makes"}`);
    there.delete(name);
    if (!packed.has(name)) continue;
    const bytes = there.has(`${name}.gz`) ? await readFile(new URL(`${name}.gz`, dist)) : null;
    if (bytes === null || gunzipSync(bytes).toString("utf8") !== text) wrong.push(`dist/${name}.gz does not hold dist/${name}`);
    there.delete(`${name}.gz`);
  }
  for (const name of there) wrong.push(`dist/${name} is made of nothing`);
  if (wrong.length) wrong.push("run: npm run build");
} else {
  await rm(dist, { recursive: true, force: true });
  await mkdir(dist);
  for (const [name, text] of made) await writeFile(new URL(name, dist), text);
  for (const [name, bytes] of packed) await writeFile(new URL(`${name}.gz`, dist), bytes);
}
if (size > MOST) wrong.push(`${size} bytes compressed, of ${MOST} at most`);
console.log(`${size} bytes compressed (${WANTED} wanted, ${MOST} at most)`);
for (const line of wrong) console.error(line);
process.exit(wrong.length ? 1 : 0);
