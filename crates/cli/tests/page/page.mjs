// The parts of the test, one after another.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { browser, screenshots, serve, shootAll } from './browser.mjs';
import { chats } from './chat.mjs';
import { classes } from './class.mjs';
import { guards } from './guards.mjs';
import { hostile } from './hostile.mjs';
import { ledger } from './ledger.mjs';
import { looks } from './looks.mjs';

/** Names and placeholders of the texts of a language. */
function table(source, from) {
  const body = source.slice(source.indexOf(from)).split('\n').slice(1);
  const lines = body.slice(0, body.findIndex((line) => line.startsWith('}')));
  return Object.fromEntries(
    lines.map((line) => {
      const [, name, text] = /^ {2}(\w+): '(.*)',$/.exec(line) ?? assert.fail(`no text: ${line}`);
      return [name, [...text.matchAll(/\{\w+\}/g)].map(String).sort()];
    }),
  );
}

const source = readFileSync(process.argv[5], 'utf8');
const english = table(source, 'export const en');
assert.deepEqual(table(source, 'export const zh'), english);
assert.ok(Object.keys(english).length > 200);
console.log(`page: ${Object.keys(english).length} texts in English and Chinese`);

rmSync(screenshots, { recursive: true, force: true });
mkdirSync(screenshots);
try {
  const open = await serve('--queue', '2');
  await guards(open);
  await chats(open);
  await hostile(open);
  await ledger();
  await classes();
  await looks(open);
  await open.stop();
  await browser.close();
} catch (error) {
  await shootAll();
  throw error;
}
