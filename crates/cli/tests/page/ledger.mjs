// A server with a ledger: keys, an invitation that becomes one, balance, and the operator's view.
import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { NO_END, browser, command, endless, fill, intercept, open, passed, press, send, serve, shoot, shows, texts, work } from './browser.mjs';

const folder = join(work, 'books');

export async function books() {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const [file, prices] = [join(folder, 'ledger.db'), join(folder, 'prices.toml')];
  writeFileSync(prices, 'currency = "EUR"\n[[models]]\nname = "*"\nhit = 100\nmiss = 200\noutput = 500\n');
  const key = (name, ...more) => command('keys', 'create', name, '--ledger', file, '--currency', 'EUR', '--quiet', ...more);
  const admin = await key('operator', '--admin');
  const user = await key('anna', '--top-up', '5', '--requests-per-minute', '600', '--tokens-per-day', '200000', '--money-per-month', '5');
  const poor = await key('poor', '--top-up', '0.000001');
  const server = await serve('--ledger', file, '--prices', prices);
  return { server, file, admin, user, poor };
}

const DESCRIPTION = 'Download the API’s description (OpenAPI)';

const kept = (page) => page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));

async function keys({ server, admin, user }) {
  const page = await open(server.url);
  await shows(page, 'This server needs a key');
  await press(page, 'Help');
  await shows(page, 'Keyboard');
  assert.equal(await page.$(`::-p-aria([name="${DESCRIPTION}"])`), null, 'a link that leads to a 401');
  await page.keyboard.press('Escape');
  await fill(page, 'API key', 'sk-ft-wrong');
  await press(page, 'Use the key');
  await shows(page, 'This key is not accepted');
  await fill(page, 'API key', 'two words');
  await press(page, 'Use the key');
  await shows(page, 'visible ASCII characters');
  // An operator's key in the wrong place is kept nowhere.
  await fill(page, 'API key', admin);
  await press(page, 'Keep the key in this browser', 'checkbox');
  await press(page, 'Use the key');
  await shows(page, 'That is an operator’s key');
  assert.ok(!(await kept(page)).includes(admin));
  await press(page, 'Keep the key in this browser', 'checkbox');
  await fill(page, 'API key', user);
  await press(page, 'Use the key');
  await page.waitForSelector('#message');
  const [local, session] = JSON.parse(await kept(page));
  assert.ok(!JSON.stringify(local).includes(user) && Object.values(session).includes(user), 'a key stays in its tab');
  await page.reload();
  await page.waitForSelector('select.model');
  await press(page, 'Help');
  const [described] = await Promise.all([page.waitForResponse((response) => response.url().endsWith('/openapi.json')), press(page, DESCRIPTION)]);
  assert.equal(described.status(), 200);
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => !document.querySelector('dialog[open]'));
  passed('a wrong key is told; a key stays in its tab, an operator’s nowhere; the API’s description comes with the key');
  return page;
}

const amount = async (page) => Number((await page.$eval('.tile .big', (one) => one.textContent)).replace(/[^\d.]/g, ''));

async function balance(page) {
  await press(page, 'Balance and usage');
  await page.waitForSelector('.tile .big');
  const before = await amount(page);
  await press(page, 'New chat');
  // Long enough that its cost is seen in a balance that is shown in cents.
  const restore = await intercept(page, (request) => void request.continue({ postData: JSON.stringify({ ...JSON.parse(request.postData()), logit_bias: NO_END, max_tokens: 40 }) }));
  await send(page, 'Once upon a time');
  await restore();
  const [cost] = await texts(page, '.cost');
  assert.match(cost, /^€0\.\d+$/);
  await press(page, 'Balance and usage');
  await page.waitForFunction((was) => Number(document.querySelector('.tile .big')?.textContent.replace(/[^\d.]/g, '') ?? was) < was, {}, before);
  await page.waitForFunction(() => document.querySelectorAll('.chart canvas').length === 2);
  assert.ok((await texts(page, 'table.data tfoot td'))[0] === '1');
  passed('an answer says what it cost, and the balance falls');
}

/** What a key's newest requests were charged, the newest first. */
async function charged(file, key, most) {
  const { requests } = JSON.parse(await command('usage', '--requests', '--most', String(most), '--key', key, '--ledger', file, '--json'));
  return requests;
}

const exact = (page, most) => intercept(page, (request) => void request.continue({ postData: JSON.stringify({ ...JSON.parse(request.postData()), logit_bias: NO_END, max_tokens: most }) }));

/** Lets an answer go on, and waits for the end of that part. */
async function goOn(page) {
  const before = await page.$eval('.message:last-of-type .text', (one) => one.textContent.length);
  await press(page, 'Continue');
  await page.waitForFunction((least) => document.querySelector('.message:last-of-type .text').textContent.length > least && document.querySelector('.message:last-of-type .figures'), {}, before);
}

/** The figures below the last answer: tokens, money in micro-units, and all of it as text. */
async function figures(page) {
  const text = await page.$eval('.message:last-of-type .figures', (one) => one.textContent);
  const [, tokens] = /([\d,]+) tokens/.exec(text);
  const cost = await page.$$eval('.message:last-of-type .cost', ([one]) => one?.textContent ?? '');
  return { text, tokens: Number(tokens.replaceAll(',', '')), cost: Math.round(Number(cost.replace(/^.*€/, '')) * 1e6) };
}

async function sums(page, { file }) {
  await press(page, 'New chat');
  let restore = await exact(page, 12);
  await send(page, 'Once upon a time');
  await goOn(page);
  await goOn(page);
  const whole = await figures(page);
  const rows = await charged(file, 'anna', 3);
  assert.equal(whole.tokens, 36);
  assert.equal(whole.cost, rows.reduce((sum, { cost }) => sum + cost, 0), `${whole.text}: ${JSON.stringify(rows)}`);
  assert.ok(!whole.text.includes('about') && !whole.text.includes('at least'), whole.text);
  await page.reload();
  await page.waitForFunction((text) => document.querySelector('.message:last-of-type .figures')?.textContent === text, {}, whole.text);
  await restore();

  // A part that was stopped is charged, but nobody says what it cost.
  await press(page, 'New chat');
  restore = await intercept(page, endless);
  await page.type('#message', 'Once upon a time');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelector('.message:last-of-type[aria-busy="true"] .text')?.textContent.length > 40);
  await press(page, 'Stop');
  await shows(page, 'Stopped.');
  await restore();
  const stopped = await figures(page);
  assert.ok(stopped.text.startsWith('about') && stopped.text.includes('what was cut off is charged too') && stopped.tokens > 5 && stopped.cost === 0, stopped.text);
  restore = await exact(page, 12);
  await goOn(page);
  await restore();
  const both = await figures(page);
  assert.ok(both.text.startsWith('about') && both.text.includes('at least €') && both.text.includes('charged too'), both.text);
  const [second, first] = await charged(file, 'anna', 2);
  assert.equal(both.tokens, stopped.tokens + 12);
  assert.equal(both.cost, second.cost);
  assert.ok(first.cost > 0 && first.output >= stopped.tokens, `${stopped.tokens} tokens seen, ${JSON.stringify(first)}`);
  await page.reload();
  await page.waitForFunction((text) => document.querySelector('.message:last-of-type .figures')?.textContent === text, {}, both.text);
  passed('an answer of several parts has their sum, as the ledger has it; of a part that was stopped what is known');
}

async function broke({ server, poor }) {
  const page = await open(server.url);
  await fill(page, 'API key', poor);
  await press(page, 'Use the key');
  await page.waitForSelector('select.model');
  await page.type('#message', 'Hello');
  await page.keyboard.press('Enter');
  await shows(page, 'The balance or a budget is used up.');
  await shows(page, 'the account “poor”');
  await shows(page, 'Left: €0.000001.');
  await page.browserContext().close();
  passed('an empty balance is told, with what is left and whom to ask');
}

/** The operator's view: a key, an invitation, money, limits, revocation. Gives the link of the invitation. */
async function operator({ server, admin }) {
  const page = await open(`${server.url}/#/operator/keys`);
  await shows(page, 'This view needs an operator’s key');
  await fill(page, 'Operator’s key', 'sk-ft-wrong');
  await press(page, 'Use the key');
  await shows(page, 'no operator’s key of this server');
  await fill(page, 'Operator’s key', admin);
  await press(page, 'Use the key');
  await press(page, 'New key');
  await fill(page, 'Name', 'berta');
  await fill(page, 'Requests a minute', '60');
  await fill(page, 'EUR, a month', '2.50');
  await page.locator('dialog[open] button[type=submit]').click();
  const secret = await page.waitForSelector('dialog[open] input[readonly]').then((field) => field.evaluate((input) => input.value));
  assert.match(secret, /^sk-ft-\w{40}$/);
  await page.keyboard.press('Escape');
  await shows(page, 'berta');
  await press(page, 'Limits: berta');
  const month = await page.waitForSelector('::-p-aria([name="EUR, a month"])');
  assert.equal(await month.evaluate((field) => field.value), '2.5');
  await fill(page, 'Requests a minute', 'many');
  await page.locator('dialog[open] button[type=submit]').click();
  await shows(page, 'Give a whole number');
  await fill(page, 'Requests a minute', '30');
  await page.locator('dialog[open] button[type=submit]').click();
  await page.waitForFunction(() => !document.querySelector('dialog[open]'));
  // At 1200 px nothing is cut off.
  await page.setViewport({ width: 1200, height: 860 });
  const cut = await page.$$eval('.row-actions button', (all) => all.filter((one) => one.getBoundingClientRect().right > one.closest('.wide').getBoundingClientRect().right).length);
  assert.equal(cut, 0, 'buttons that are cut off');
  await press(page, 'Revoke: operator');
  await shows(page, 'the only operator’s key of the ledger');
  await press(page, 'Cancel');
  await press(page, 'Revoke: berta');
  await shows(page, 'Its next request is refused.');
  await page.locator('dialog[open] button.danger').click();
  await page.waitForFunction(() => [...document.querySelectorAll('tr')].some((row) => row.textContent.includes('berta') && row.textContent.includes('revoked')));

  await press(page, 'Accounts', 'link');
  await page.waitForSelector('::-p-aria([name="Add money: anna"])');
  assert.equal(await page.$('::-p-aria([name="Add money: operator"])'), null, 'money for an account that uses no model');
  await press(page, 'Add money: anna');
  await fill(page, 'Amount, EUR', '7.25');
  await page.locator('dialog[open] button[type=submit]').click();
  // Of the 5 that were there first, the answer that was stopped has taken more or less, as fast as the stop was.
  await page.waitForFunction(() => [...document.querySelectorAll('tr')].some((row) => row.textContent.includes('anna') && /€1[12]\.\d/.test(row.textContent)));
  await press(page, 'Usage', 'link');
  await page.waitForFunction(() => document.querySelectorAll('.chart canvas').length === 2);
  await press(page, 'Prices', 'link');
  await shows(page, '€500.00');
  await press(page, 'Load', 'link');
  await page.waitForSelector('.heat canvas');

  await press(page, 'Invitations', 'link');
  await press(page, 'New invitation');
  await fill(page, 'Name', 'key_class');
  await page.locator('dialog[open] button[type=submit]').click();
  await shows(page, 'A name has 1 to 100 visible characters');
  await fill(page, 'Name', ' class ');
  await fill(page, 'Uses', '2');
  await fill(page, 'Granted to each account, EUR', '1');
  await page.locator('dialog[open] button[type=submit]').click();
  await page.waitForFunction(() => document.querySelectorAll('dialog[open] input[readonly]').length === 2);
  await shows(page, 'Others cannot reach localhost');
  const [, link] = await page.$$eval('dialog[open] input[readonly]', (fields) => fields.map((field) => field.value));
  await page.keyboard.press('Escape');
  assert.ok(!(await kept(page)).includes(admin) && !(await page.content()).includes(admin));
  await page.reload();
  await shows(page, 'This view needs an operator’s key');
  await fill(page, 'Operator’s key', admin);
  await press(page, 'Remember it in this tab', 'checkbox');
  await press(page, 'Use the key');
  await shows(page, 'class');
  const [local, session] = JSON.parse(await kept(page));
  assert.ok(!JSON.stringify(local).includes(admin) && JSON.stringify(session).includes(admin));
  await press(page, 'Forget the operator’s key');
  await shows(page, 'This view needs an operator’s key');
  assert.ok(!(await kept(page)).includes(admin));
  await page.browserContext().close();
  passed('the operator makes, limits and revokes keys, adds money, invites; the key is kept where it was asked to');
  return link;
}

/** An operator who opened the page by an address that others can use: the link has it, and no warning. */
async function elsewhere({ server, admin }) {
  const url = `http://evil.example:${server.port}`;
  const page = await open(`${url}/#/operator/invitations`);
  await fill(page, 'Operator’s key', admin);
  await press(page, 'Use the key');
  await press(page, 'New invitation');
  await fill(page, 'Name', 'elsewhere');
  await page.locator('dialog[open] button[type=submit]').click();
  await page.waitForFunction(() => document.querySelectorAll('dialog[open] input[readonly]').length === 2);
  const [, link] = await page.$$eval('dialog[open] input[readonly]', (fields) => fields.map((field) => field.value));
  assert.ok(link.startsWith(`${url}/#/invite/inv-`), link);
  assert.ok(!(await page.$eval('dialog[open]', (dialog) => dialog.innerText)).includes('cannot reach'));
  await page.browserContext().close();
  passed('a link for an invitation that leads nowhere for others is told');
}

/** A second person of the same name, with the same invitation. */
async function namesake(link) {
  const page = await open(link);
  await fill(page, 'Name for your account', 'carla');
  await press(page, 'Get my key');
  const secret = await page.waitForSelector('.sign-in input[readonly]').then((field) => field.evaluate((input) => input.value));
  const said = await page.$eval('.sign-in', (one) => one.innerText);
  const [, name] = /The name “carla” was taken: your account is “(carla-\w{4})”\./.exec(said) ?? assert.fail(said);
  await press(page, 'Keep the key in this browser', 'checkbox');
  await press(page, 'Begin to chat');
  await page.waitForSelector('select.model');
  const [local] = JSON.parse(await kept(page));
  assert.ok(JSON.stringify(local).includes(secret), 'a key that was to be kept is not');
  await press(page, 'Balance and usage');
  await shows(page, `Account “${name}”`);
  await page.browserContext().close();
  passed('a name that was taken is told with the one that the account has');
}

async function invitation(link) {
  const page = await open(link);
  await shows(page, 'Invitation code');
  assert.ok(!page.url().includes('inv-'), 'the code stays in the address');
  await fill(page, 'Name for your account', 'acc_carla');
  await press(page, 'Get my key');
  await shows(page, 'A name has 1 to 100 visible characters');
  await fill(page, 'Name for your account', '  carla  ');
  await press(page, 'Get my key');
  const secret = await page.waitForSelector('.sign-in input[readonly]').then((field) => field.evaluate((input) => input.value));
  assert.match(secret, /^sk-ft-\w{40}$/);
  await shows(page, 'Your account is “carla”.');
  await shows(page, 'It is shown this once');
  assert.ok(await page.$('.sign-in ::-p-aria([name="Copy"][role="button"])'));
  assert.equal(await page.$eval('.sign-in input[type=checkbox]', (box) => box.checked), false, 'a key is kept unasked');
  await press(page, 'Begin to chat');
  await page.waitForSelector('select.model');
  const [local, session] = JSON.parse(await kept(page));
  assert.ok(!JSON.stringify(local).includes(secret) && JSON.stringify(session).includes(secret), 'a key stays in its tab');
  await send(page, 'Once upon a time');
  await press(page, 'Balance and usage');
  await shows(page, 'Account “carla”');
  assert.ok((await kept(page)).includes(secret));
  await press(page, 'Forget the key');
  await shows(page, 'This server needs a key');
  assert.ok(!(await kept(page)).includes(secret));
  await namesake(link);
  // A code that is used up.
  await press(page, 'I have an invitation');
  await fill(page, 'Invitation code', link.split('/').at(-1));
  await fill(page, 'Name for your account', 'dora');
  await press(page, 'Get my key');
  await shows(page, 'The invitation is not accepted');
  await page.browserContext().close();
  passed('an invitation becomes keys, as many as it says; none is kept in the browser unasked');
}

export async function ledger() {
  const made = await books();
  const page = await keys(made);
  await balance(page);
  await sums(page, made);
  await press(page, 'Balance and usage');
  await page.waitForSelector('.tile .big');
  await shoot(page, 'account');
  await page.browserContext().close();
  await broke(made);
  const link = await operator(made);
  await elsewhere(made);
  await invitation(link);
  await made.server.stop();
  assert.ok(browser.connected);
}
