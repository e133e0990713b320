// How it looks, and axe: every view, in light and dark, in both languages, on a desktop and at 390 px.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { answerWith, events, intercept, open, passed, send, shoot, work } from './browser.mjs';
import { books } from './ledger.mjs';

const axe = readFileSync(join(work, 'node_modules/axe-core/axe.min.js'), 'utf8');

const TEXT = `Here is what a **farthing** was worth, with a [source](https://example.org/).

| coin | of a pound |
|:--|--:|
| farthing | 1/960 |
| penny | 1/240 |

1. A quarter of a penny: $\\frac{1}{4} \\cdot \\frac{1}{240} = \\frac{1}{960}$
2. Withdrawn in 1960

$$\\sum_{n=1}^{4} \\frac{1}{960} = \\frac{1}{240}$$

\`\`\`python
def farthings(pounds: int) -> int:
    """How many farthings a sum is."""
    return pounds * 960  # twenty shillings of twelve pence
\`\`\`

> The wren was on its reverse.`;

const wrong = [];

/** Notes what axe finds wrong. */
async function check(page, name) {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ['violations'] });
    return violations.map(({ id, help, nodes }) => ({ id, help, nodes: nodes.map((node) => `${node.html.slice(0, 200)} ${node.failureSummary}`) }));
  });
  // Nothing is wider than the screen.
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  if (found.length > 0 || wide) wrong.push({ name, found, wide });
  await shoot(page, name);
}

async function chat(server, how, name) {
  const page = await open(server.url, how);
  await page.waitForSelector('select.model');
  await check(page, `${name}-empty`);
  const chinese = how.language === 'zh';
  const restore = await intercept(page, answerWith(TEXT, { reasoning: 'A farthing is a quarter of a penny.', usage: { cost: 0.00042 } }));
  await send(page, chinese ? '一法寻值多少？' : 'What was a farthing worth?');
  await restore();
  await check(page, `${name}-chat`);
  if (how.width === 390) {
    await page.click('#open-side');
    await page.waitForSelector('.side.open');
    await page.evaluate(() => Promise.all(document.getAnimations().map((one) => one.finished)));
    await check(page, `${name}-side`);
    await page.keyboard.press('Escape');
  }
  await page.click('.top > button:last-child');
  await page.waitForSelector('dialog[open]');
  await check(page, `${name}-settings`);
  await page.keyboard.press('Escape');
  // Gone, and not only closed: its end would close the next one.
  await page.waitForFunction(() => !document.querySelector('dialog'));
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('?');
  await page.waitForSelector('dialog[open]');
  await check(page, `${name}-help`);
  await page.browserContext().close();
}

/** An answer that was cut off, and continued. */
async function continued(page, name) {
  const [begun] = events(TEXT).split('data: {"choices":[{"index":0,"delta":{}');
  let restore = await intercept(page, (request) => void request.respond({ status: 200, contentType: 'text/event-stream', body: begun }));
  await send(page, 'What was a farthing worth?');
  await restore();
  restore = await intercept(page, answerWith('\n\nIt was worth little.', { usage: { cost: 0.00042 } }));
  await page.locator('.message:last-of-type .actions > button:nth-of-type(3)').click();
  await page.waitForSelector('.message:last-of-type .cost');
  await restore();
  await check(page, `${name}-continued`);
}

/** The link of a new invitation, and the page of somebody who followed it. */
async function invited(page, how, name) {
  await page.evaluate(() => (location.hash = '#/operator/invitations'));
  await page.waitForFunction(() => document.querySelector('.tabs [aria-current]')?.hash.endsWith('invitations'));
  await page.locator('.section-head button.primary').click();
  await (await page.waitForSelector('dialog[open] input')).type(name);
  await page.locator('dialog[open] button[type=submit]').click();
  await page.waitForFunction(() => document.querySelectorAll('dialog[open] input[readonly]').length === 2);
  await check(page, `${name}-link`);
  const link = await page.$$eval('dialog[open] input[readonly]', ([, field]) => field.value);
  await page.keyboard.press('Escape');
  const person = await open(link, how);
  await (await person.waitForSelector('input[autocomplete=username]')).type('anna');
  await check(person, `${name}-invited`);
  await person.locator('.sign-in button[type=submit]').click();
  await person.waitForSelector('.sign-in input[readonly]');
  await check(person, `${name}-made`);
  await person.browserContext().close();
}

async function keyed({ server, admin, user }, how, name) {
  const page = await open(server.url, how);
  const field = await page.waitForSelector('input[type=password]');
  await check(page, `${name}-sign-in`);
  await field.type(user);
  await page.keyboard.press('Enter');
  await page.waitForSelector('select.model');
  await send(page, 'Once upon a time');
  await continued(page, name);
  await page.evaluate(() => (location.hash = '#/account'));
  await page.waitForFunction(() => document.querySelectorAll('.chart canvas').length === 2);
  await check(page, `${name}-account`);
  await page.evaluate(() => (location.hash = '#/operator/load'));
  await (await page.waitForSelector('input[type=password]')).type(admin);
  await page.keyboard.press('Enter');
  await page.waitForSelector('.heat canvas');
  await page.waitForFunction(() => document.querySelectorAll('.chart canvas').length === 3);
  await check(page, `${name}-load`);
  for (const tab of ['models', 'keys', 'accounts', 'invitations', 'usage', 'prices']) {
    await page.evaluate((to) => (location.hash = `#/operator/${to}`), tab);
    await page.waitForFunction((to) => document.querySelector('.tabs [aria-current]')?.hash.endsWith(to) && document.querySelector('table.data, .page p.hint'), {}, tab);
    await page.evaluate(() => new Promise((later) => requestAnimationFrame(() => requestAnimationFrame(later))));
    await check(page, `${name}-${tab}`);
  }
  await page.evaluate(() => (location.hash = '#/operator/keys'));
  await page.locator('.section-head button.primary').click();
  await page.waitForSelector('dialog[open]');
  await check(page, `${name}-new-key`);
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => !document.querySelector('dialog[open]'));
  await page.locator('tbody tr:first-child .row-actions button:last-child').click();
  await page.waitForSelector('dialog[open] button.danger');
  await check(page, `${name}-revoke`);
  await page.keyboard.press('Escape');
  await invited(page, how, name);
  await page.browserContext().close();
}

export async function looks(server) {
  const made = await books();
  for (const language of ['en', 'zh']) {
    for (const scheme of ['light', 'dark']) {
      for (const width of [1280, 390]) {
        const how = { language, scheme, width, height: width === 390 ? 844 : 860 };
        const name = `${language}-${scheme}-${width}`;
        await chat(server, how, name);
        await keyed(made, how, name);
        assert.equal(JSON.stringify(wrong, null, 1), '[]');
        passed(`axe finds nothing in ${name}`);
      }
    }
  }
  await made.server.stop();
}
