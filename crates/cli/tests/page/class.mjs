// A class of thirty with one invitation: each makes a key on the page and talks, all at the same time, while the operator watches.
import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { choose, command, fill, open, passed, picture, press, serveBundled, shows, texts, work } from './browser.mjs';

const NAMES = 'anna ben carla dora emil fay gus hana ivan june karl lena milo nora otto petra quinn rosa sami tara ulf vera willy xenia yara zeno ada bruno cleo dario'.split(' ');
const ANIMALS = ['a fox named Mira', 'a hen named Pepper', 'a badger named Oskar', 'a goose named Lotte', 'a mouse named Finn'];
const THINGS = ['a red hat', 'a silver key', 'a little bell', 'a blue lantern', 'a golden button', 'an old drum'];
const GRANT = 0.5;
const SIZE = { width: 1280, height: 800 };
// For what never comes; nothing is measured by it.
const LIMIT_MS = 900_000;

/** What the person of a number asks, in one conversation and in a second one. */
export const conversations = (at) => [
  ['Hello!', `Anna has ${23 + at} stamps and gives ${3 + (at % 7)} away. How many stamps are left?`],
  [`Tell me a story about ${ANIMALS[at % 5]} who found ${THINGS[at % 6]}, with a happy end.`, `Who found ${THINGS[at % 6].replace(/^an?/, 'the')}?`],
];

/** The page of somebody who followed the link of an invitation, made a key and may talk. */
export async function invited(link, name, prepare) {
  const page = await open(link, { ...SIZE, timeout: LIMIT_MS, prepare });
  await fill(page, 'Name for your account', name);
  let made;
  do {
    await press(page, 'Get my key');
    made = await page.waitForFunction(() => document.querySelector('.sign-in input[readonly]')?.value ?? (document.querySelector('.sign-in .problem')?.innerText || false));
    // Tries at once from one address are few: who was too early presses again.
  } while ((await made.jsonValue()).startsWith('Too many'));
  assert.match(await made.jsonValue(), /^sk-ft-\w{40}$/);
  await press(page, 'Begin to chat');
  await page.waitForSelector('select.model');
  return page;
}

/** The page of the operator's view. */
export async function watching(url, admin) {
  const page = await open(`${url}/#/operator/load`, { ...SIZE, timeout: LIMIT_MS });
  await fill(page, 'Operator’s key', admin);
  await press(page, 'Use the key');
  await page.waitForSelector('.heat canvas');
  return page;
}

/** Waits until the operator's view shows more running requests than a number. */
export const running = (page, more) => page.waitForFunction((least) => Number(document.querySelector('.tile dd')?.textContent) > least, {}, more);

/** Writes a message and sends it, without waiting. */
export async function begin(page, text) {
  const field = await page.waitForSelector('#message');
  await field.focus();
  await page.keyboard.sendCharacter(text);
  await field.press('Enter');
}

/** Asks, and waits for the whole answer; who is told to come again does so. Gives how often that was. */
export async function ask(page, text) {
  const before = (await page.$$('.figures')).length;
  await begin(page, text);
  for (let refused = 0; ; refused++) {
    const what = await page.waitForFunction(
      (count) => (document.querySelectorAll('.figures').length > count && 'answered') || (document.querySelector('.refusal button:enabled') && document.querySelector('.refusal').innerText),
      {},
      before,
    );
    const said = await what.jsonValue();
    if (said === 'answered') return refused;
    assert.ok(said.includes('Too many requests'), said);
    await press(page, 'Try again');
  }
}

/** What a conversation shows of its answers, in all: tokens, and micro-units of money. */
async function shown(page) {
  const answers = await page.$$eval('.figures', (all) => all.map((one) => [one.title, one.querySelector('.cost').textContent]));
  const sums = { requests: answers.length, hit: 0, miss: 0, output: 0, cost: 0 };
  for (const [title, cost] of answers) {
    const [prompt, hit, output] = /^Prompt: (.*) tokens, (.*) of them from the cache\. Answer: (.*) tokens\./.exec(title).slice(1).map((count) => Number(count.replaceAll(',', '')));
    sums.hit += hit;
    sums.miss += prompt - hit;
    sums.output += output;
    sums.cost += Math.round(Number(cost.replace('€', '')) * 1e6);
  }
  return sums;
}

/** Holds the conversations of the person of a number; what all answers show, and how often the person was told to come again. */
async function hold(page, at, answered) {
  const [all, sums] = [{ refused: 0 }, {}];
  for (const questions of conversations(at)) {
    await press(page, 'New chat');
    await page.waitForFunction(() => !document.querySelector('.message'));
    for (const question of questions) {
      all.refused += await ask(page, question);
      answered();
    }
    const seen = await shown(page);
    for (const [name, value] of Object.entries(seen)) sums[name] = (sums[name] ?? 0) + value;
    // Nothing is missing.
    assert.equal(seen.requests, questions.length);
    assert.equal((await page.$$('.message:not(.mine)')).length, questions.length);
    assert.equal(await page.$('.refusal'), null);
    assert.ok(!(await texts(page, '.note')).some((note) => note.includes('lost')));
  }
  return { ...all, sums };
}

async function balance(page) {
  await press(page, 'Balance and usage');
  return Number((await page.waitForSelector('.tile .big').then((tile) => tile.evaluate((one) => one.textContent))).replace('€', ''));
}

async function classroom() {
  const folder = join(work, 'class');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const [file, prices] = [join(folder, 'ledger.db'), join(folder, 'prices.toml')];
  writeFileSync(prices, 'currency = "EUR"\n[[models]]\nname = "*"\nhit = 0.1\nmiss = 1\noutput = 4\n');
  const admin = await command('keys', 'create', 'operator', '--admin', '--ledger', file, '--currency', 'EUR', '--quiet');
  const code = await command('invitations', 'create', 'class', '--uses', String(NAMES.length), '--grant', String(GRANT), '--ledger', file, '--quiet');
  const started = Date.now();
  const server = await serveBundled('--ledger', file, '--prices', prices);
  return { file, admin, server, link: `${server.url}/#/invite/${code}`, started };
}

/** A promise that is kept by whoever has it. */
function later() {
  let resolve;
  return { promise: new Promise((kept) => (resolve = kept)), resolve: () => resolve() };
}

/** All talk at the same time, and pictures are taken meanwhile; what each of them saw. */
async function talk(pages, operator) {
  const [halfway, all] = [later(), pages.length * conversations(0).flat().length];
  let answers = 0;
  const answered = () => ++answers === Math.ceil(all / 2) && halfway.resolve();
  const [first] = pages;
  const writing = first.waitForFunction(() => document.querySelector('.message[aria-busy="true"] .text')?.innerText.length > 400);
  const [people] = await Promise.all([
    Promise.all(pages.map((page, at) => hold(page, at, answered))),
    halfway.promise.then(() => running(operator, 1)).then(() => picture(operator, 'class-load')),
    writing.then(() => picture(first, 'class-chat')),
  ]);
  return people;
}

/** The ledger's sums are what the pages showed, account by account. */
async function books(file, people) {
  const usage = JSON.parse(await command('usage', '--by', 'account', '--ledger', file, '--json'));
  const charged = Object.fromEntries(usage.rows.map(({ name, requests, hit, miss, output, cost }) => [name, { requests, hit, miss, output, cost }]));
  assert.deepEqual(charged, Object.fromEntries(people.map(({ sums }, at) => [NAMES[at], sums])));
}

export async function classes() {
  const { file, admin, server, link, started } = await classroom();
  const operator = await watching(server.url, admin);
  const pages = await Promise.all(NAMES.map((name) => invited(link, name)));
  const people = await talk(pages, operator);
  const seconds = Math.round((Date.now() - started) / 1000);
  for (const page of pages) assert.ok((await balance(page)) < GRANT);
  await operator.evaluate(() => (location.hash = '#/operator/usage'));
  await choose(operator, 'By', 'account');
  await shows(operator, 'zeno');
  await picture(operator, 'class-usage');
  await server.stop();
  await books(file, people);
  const sum = (of) => people.reduce((all, person) => all + of(person), 0);
  for (const page of [...pages, operator]) await page.browserContext().close();
  passed(
    `${pages.length} people with one invitation: ${sum(({ sums }) => sums.requests)} whole answers of ${sum(({ sums }) => sums.output)} tokens, ` +
      `${sum(({ refused }) => refused)} times “too many”; ${seconds} s from the start of the server to the last answer`,
  );
}
