// A server with a ledger: keys, an invitation that becomes one, balance, and the operator's view.
import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { NO_END, browser, command, fill, intercept, open, passed, press, send, serve, shoot, shows, texts, work } from './browser.mjs';

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
  return { server, admin, user, poor };
}

const kept = (page) => page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));

async function keys({ server, admin, user }) {
  const page = await open(server.url);
  await shows(page, 'This server needs a key');
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
  passed('a wrong key is told; a key stays in its tab, an operator’s nowhere');
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
  assert.equal(await page.waitForSelector('::-p-aria([name="EUR, a month"])').then((field) => field.evaluate((input) => input.value)), '2.5');
  await fill(page, 'Requests a minute', 'many');
  await page.locator('dialog[open] button[type=submit]').click();
  await shows(page, 'Give a whole number');
  await fill(page, 'Requests a minute', '30');
  await page.locator('dialog[open] button[type=submit]').click();
  await page.waitForFunction(() => !document.querySelector('dialog[open]'));
  await press(page, 'Revoke: berta');
  await page.locator('dialog[open] button.danger').click();
  await page.waitForFunction(() => [...document.querySelectorAll('tr')].some((row) => row.textContent.includes('berta') && row.textContent.includes('revoked')));

  await press(page, 'Accounts', 'link');
  await press(page, 'Add money: anna');
  await fill(page, 'Amount, EUR', '7.25');
  await page.locator('dialog[open] button[type=submit]').click();
  await shows(page, '€12.');
  await press(page, 'Usage', 'link');
  await page.waitForFunction(() => document.querySelectorAll('.chart canvas').length === 2);
  await press(page, 'Prices', 'link');
  await shows(page, '€500.00');
  await press(page, 'Load', 'link');
  await page.waitForSelector('.heat canvas');

  await press(page, 'Invitations', 'link');
  await press(page, 'New invitation');
  await fill(page, 'Name', 'class');
  await fill(page, 'Granted to each account, EUR', '1');
  await page.locator('dialog[open] button[type=submit]').click();
  await page.waitForFunction(() => document.querySelectorAll('dialog[open] input[readonly]').length === 2);
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

async function invitation(link) {
  const page = await open(link);
  await shows(page, 'Invitation code');
  assert.ok(!page.url().includes('inv-'), 'the code stays in the address');
  await fill(page, 'Name for your account', 'carla');
  await press(page, 'Get my key');
  const secret = await page.waitForSelector('.sign-in input[readonly]').then((field) => field.evaluate((input) => input.value));
  assert.match(secret, /^sk-ft-\w{40}$/);
  await press(page, 'Begin to chat');
  await page.waitForSelector('select.model');
  await send(page, 'Once upon a time');
  await press(page, 'Balance and usage');
  await shows(page, 'Account “carla”');
  assert.ok((await kept(page)).includes(secret));
  await press(page, 'Forget the key');
  await shows(page, 'This server needs a key');
  assert.ok(!(await kept(page)).includes(secret));
  // A code that is used up.
  await press(page, 'I have an invitation');
  await fill(page, 'Invitation code', link.split('/').at(-1));
  await fill(page, 'Name for your account', 'dora');
  await press(page, 'Get my key');
  await shows(page, 'The invitation is not accepted');
  await page.browserContext().close();
  passed('an invitation becomes a key, once');
}

export async function ledger() {
  const made = await books();
  const page = await keys(made);
  await balance(page);
  await shoot(page, 'account');
  await page.browserContext().close();
  await broke(made);
  await invitation(await operator(made));
  await made.server.stop();
  assert.ok(browser.connected);
}
