// Writes dist/, which the server has built in: the same sources and lockfile give the same bytes.
import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, 'dist');

const built = await build({
  absWorkingDir: here,
  entryPoints: { app: 'src/main.tsx' },
  outdir: out,
  bundle: true,
  write: false,
  minify: true,
  format: 'esm',
  target: ['chrome123', 'firefox120', 'safari17.5'],
  charset: 'utf8',
  legalComments: 'none',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  metafile: true,
});

// The licence of every package of which something is in the bundle.
async function licences() {
  const inputs = Object.keys(built.metafile.inputs).filter((path) => path.startsWith('node_modules/'));
  const packages = [...new Set(inputs.map((path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)[1]))].sort();
  const parts = await Promise.all(
    packages.map(async (name) => {
      const folder = join(here, 'node_modules', name);
      const { version, license } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'));
      const file = (await readdir(folder)).filter((entry) => /^licen[cs]e(\.|$)/i.test(entry)).sort()[0];
      if (!file) throw new Error(`${name} has no file with its licence`);
      const text = (await readFile(join(folder, file), 'utf8')).replaceAll('\r\n', '\n').trim();
      return `${name} ${version} (${license})\n\n${text}\n`;
    }),
  );
  const head = 'Farthing is under the Apache License 2.0. Its page contains parts of these packages, under the licences below.\n';
  return [head, ...parts].join(`\n${'-'.repeat(80)}\n\n`);
}

const files = new Map(built.outputFiles.map((file) => [file.path.slice(out.length + 1), Buffer.from(file.contents)]));
files.set('licences.txt', Buffer.from(await licences()));
files.set('icon.svg', await readFile(join(here, 'src/icon.svg')));
// Of each file that the page names: what its address ends with, so that it can be kept for good.
const hash = (bytes) => createHash('sha256').update(bytes).digest('hex').slice(0, 16);
const page = (await readFile(join(here, 'src/index.html'), 'utf8')).replace(/\/page\/([\w.]+)/g, (address, name) => `${address}?${hash(files.get(name))}`);
files.set('index.html', Buffer.from(page));

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
for (const [name, bytes] of files) await writeFile(join(out, name), bytes);
