// A server without keys: streaming, stop, reload, edit and branches, settings, files, the keyboard, lost connections, operator's view.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { NO_END, answerWith, ask, choose, endless, fill, intercept, open, passed, press, send, serve, shows, texts, work } from './browser.mjs';

const answers = (page) => texts(page, '.message:not(.mine) .text');

async function streamsAndStops(server, page) {
  const restore = await intercept(page, endless);
  await page.evaluate(() => {
    window.lengths = new Set();
    new MutationObserver(() => {
      const text = document.querySelector('.message:not(.mine) .text');
      if (text?.textContent) window.lengths.add(text.textContent.length);
    }).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  await page.type('#message', 'Once upon a time');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => window.lengths.size > 3);
  await press(page, 'Stop');
  await shows(page, 'Stopped.');
  const [text] = await answers(page);
  assert.ok(text.length > 10, text);
  // The engine is free again.
  for (let left = 100; ; left--) {
    const { text } = await ask(`${server.url}/metrics`, { headers: { accept: 'text/plain' } });
    if (/^farthing_requests_running\{.*\} 0$/m.test(text)) break;
    assert.ok(left > 0, text);
    await new Promise((later) => setTimeout(later, 100));
  }
  await restore();
  passed('an answer streams and stops');
  // What was cut goes on; left alone, the model might find that it had said all.
  const restoreEnd = await intercept(page, (request) => void request.continue({ postData: JSON.stringify({ ...JSON.parse(request.postData()), logit_bias: NO_END, max_tokens: 20 }) }));
  await press(page, 'Continue');
  await page.waitForFunction((before) => document.querySelector('.message:not(.mine) .text').textContent.length > before && document.querySelector('.figures'), {}, text.length);
  assert.ok((await answers(page))[0].startsWith(text.slice(0, 10)));
  await restoreEnd();
  passed('a stopped answer is continued');
}

async function keepsAndBranches(page) {
  await send(page, 'A second message');
  const [first] = await answers(page);
  const address = page.url();
  await page.reload();
  await page.waitForSelector('.message:not(.mine) .text');
  assert.equal(page.url(), address);
  assert.equal((await answers(page))[0], first);
  assert.deepEqual(await texts(page, '.asked'), ['Once upon a time', 'A second message']);
  passed('a reload keeps the conversation');

  await (await page.$('.asked ~ .actions button')).click();
  await fill(page, 'Edit the message', 'Another beginning');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelectorAll('.message').length === 2 && document.querySelector('.figures'));
  assert.deepEqual(await texts(page, '.asked'), ['Another beginning']);
  assert.ok((await texts(page, '.versions'))[0].includes('2 of 2'));
  await press(page, 'Previous version');
  await shows(page, 'A second message');
  assert.deepEqual(await texts(page, '.asked'), ['Once upon a time', 'A second message']);
  await press(page, 'Next version');
  await shows(page, 'Another beginning');
  await press(page, 'Answer anew');
  await page.waitForFunction(() => [...document.querySelectorAll('.message:not(.mine) .versions')].some((one) => one.textContent.includes('2 of 2')));
  passed('editing and asking again make branches');
}

async function settings(page) {
  await press(page, 'New chat');
  await press(page, 'Settings');
  await fill(page, 'System prompt', 'Be brief.');
  await fill(page, 'Temperature', '0.3');
  await fill(page, 'Longest answer, tokens', '5');
  await fill(page, 'Top-p', '7');
  await shows(page, 'From 0 to 1.');
  await page.keyboard.press('Escape');
  const bodies = [];
  const restore = await intercept(page, (request) => {
    const body = JSON.parse(request.postData());
    bodies.push(body);
    void request.continue({ postData: JSON.stringify({ ...body, logit_bias: NO_END }) });
  });
  await send(page, 'Hello');
  await restore();
  const [{ messages, temperature, max_tokens, top_p, stream }] = bodies;
  assert.deepEqual({ messages, temperature, max_tokens, top_p, stream }, {
    messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Hello' }],
    temperature: 0.3,
    max_tokens: 5,
    top_p: undefined,
    stream: true,
  });
  await shows(page, 'The longest answer was reached.');
  passed('system prompt and sampling settings are sent, wrong ones are not');
}

async function keyboard(page) {
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('?');
  await page.waitForSelector('dialog[open]');
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => !document.querySelector('dialog[open]'));
  await page.keyboard.press('/');
  await page.waitForFunction(() => document.activeElement.id === 'message');
  await page.keyboard.type('one');
  await page.keyboard.down('Shift');
  await page.keyboard.press('Enter');
  await page.keyboard.up('Shift');
  await page.keyboard.type('two');
  assert.equal(await page.$eval('#message', (field) => field.value), 'one\ntwo');
  // Enter that ends the input of a Chinese word sends nothing.
  await page.$eval('#message', (field) => field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true })));
  assert.equal(await page.$eval('#message', (field) => field.value), 'one\ntwo');
  const restore = await intercept(page, endless);
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelector('.message:last-of-type[aria-busy="true"] .text')?.textContent.length > 5);
  await page.keyboard.press('Escape');
  await shows(page, 'Stopped.');
  await restore();
  passed('the keyboard does all of it');
}

async function files(page) {
  const client = await page.createCDPSession();
  const folder = join(work, 'downloads');
  rmSync(folder, { recursive: true, force: true });
  await client.send('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath: folder, browserContextId: page.browserContext().id });
  const titles = await texts(page, '.row .title');
  await press(page, 'Export all');
  const file = join(folder, 'conversations.json');
  for (let left = 100; ; left--) {
    try {
      if (readdirSync(folder).includes('conversations.json')) break;
    } catch {
      // Not yet.
    }
    assert.ok(left > 0);
    await new Promise((later) => setTimeout(later, 100));
  }
  const exported = JSON.parse(readFileSync(file, 'utf8'));
  assert.equal(exported.conversations.length, titles.length);
  await press(page, 'Delete all conversations');
  await page.locator('dialog[open] button.danger').click();
  await shows(page, 'Your conversations will be here.');
  const [input] = await page.$$('input[type=file]');
  await input.uploadFile(file);
  await shows(page, `${titles.length} conversations were imported.`);
  assert.deepEqual((await texts(page, '.row .title')).sort(), titles.sort());

  // Files of others: all of it or nothing.
  const [conversation] = exported.conversations;
  const [message] = Object.values(conversation.messages);
  const with_ = (change) => JSON.stringify({ ...exported, conversations: [{ ...conversation, ...change }] });
  for (const [content, said] of [
    ['{', 'This file is not JSON'],
    ['{"a": 1}', 'no conversations of this page'],
    [JSON.stringify({ ...exported, version: 2 }), 'a newer version'],
    [with_({ messages: { a: { ...message, parent: message.id } } }), 'is damaged'],
    [with_({ messages: { a: { ...message, parent: 'ffff' } } }), 'is damaged'],
    [with_({ messages: { a: { ...message, text: { html: '<b>' } } } }), 'is damaged'],
    [with_({ id: '<img src=x onerror=alert(1)>' }), 'is damaged'],
    [with_({ messages: { a: { ...message, usage: { prompt: 'x' } } } }), 'is damaged'],
  ]) {
    const hostile = join(folder, 'hostile.json');
    writeFileSync(hostile, content);
    await input.uploadFile(hostile);
    await shows(page, said);
    assert.equal((await texts(page, '.row .title')).length, titles.length, content);
  }
  await page.reload();
  await page.waitForFunction((count) => document.querySelectorAll('.row').length === count, {}, titles.length);
  passed('conversations are exported and imported; damaged files change nothing');
}

async function full(page) {
  await page.evaluate(() => {
    const { put } = IDBObjectStore.prototype;
    window.makeRoom = () => (IDBObjectStore.prototype.put = put);
    IDBObjectStore.prototype.put = () => {
      throw new DOMException('full', 'QuotaExceededError');
    };
  });
  await press(page, 'New chat');
  await send(page, 'Is there room?');
  await shows(page, 'The browser has no room left');
  await page.evaluate(() => window.makeRoom());
  await page.locator('.row:last-child summary').click();
  await page.locator('.row:last-child .menu-items button:last-child').click();
  await page.locator('dialog[open] button.danger').click();
  await page.waitForFunction(() => !document.body.innerText.includes('no room left'));
  await page.reload();
  await shows(page, 'Is there room?');
  passed('a full browser is told, and nothing is lost once there is room');
}

async function refusals(page) {
  await press(page, 'New chat');
  const error = (status, code, headers = {}) => (request) =>
    void request.respond({ status, headers, contentType: 'application/json', body: JSON.stringify({ error: { code, message: `code ${code}` } }) });
  for (const [handle, said] of [
    [error(429, 'queue_full', { 'retry-after': '2' }), 'Too many requests.'],
    [error(503, 'overloaded', { 'retry-after': '1' }), 'cannot answer at present'],
    [error(403, 'model_not_allowed'), 'not for that'],
    [error(400, 'context_length_exceeded'), 'too long for this model'],
    [error(500, 'internal_error'), 'code internal_error'],
    [(request) => void request.abort('connectionrefused'), 'cannot be reached'],
  ]) {
    const restore = await intercept(page, handle);
    if (await page.$('.refusal')) {
      await page.waitForFunction(() => !document.querySelector('.refusal button').disabled);
      await press(page, 'Try again');
    } else {
      await page.type('#message', 'Hello');
      await page.keyboard.press('Enter');
    }
    await page.waitForFunction((wanted) => document.querySelector('.refusal')?.innerText.includes(wanted), {}, said);
    if (said.startsWith('Too many')) assert.ok(await page.$eval('.refusal button', (button) => button.disabled), 'before its time');
    await restore();
  }
  await press(page, 'Try again');
  await page.waitForSelector('.figures');
  assert.deepEqual(await texts(page, '.asked'), ['Hello']);
  passed('each refusal is told with what to do, and tried again');
}

async function lost() {
  const server = await serve();
  const page = await open(server.url);
  await page.waitForFunction(() => document.querySelector('select.model'));
  const restore = await intercept(page, endless);
  await page.type('#message', 'Once upon a time');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelector('.message:not(.mine) .text')?.textContent.length > 20);
  await server.stop('SIGKILL');
  await shows(page, 'The connection was lost here.');
  assert.ok((await answers(page))[0].length > 20);
  await restore();
  await page.close();
  passed('what came before the connection was lost is kept');
}

/** A browser whose frames and timers come long after the server's answers. */
async function slow(server) {
  const prepare = (page) =>
    page.evaluateOnNewDocument(() => {
      const later = window.setTimeout;
      window.setTimeout = (run, ms = 0, ...rest) => later(run, Math.max(ms, 1500), ...rest);
      window.requestAnimationFrame = (run) => later(() => run(performance.now()), 1500);
    });
  const page = await open(server.url, { prepare });
  await page.waitForSelector('select.model');
  await shows(page, 'Your conversations will be here.');
  await page.browserContext().close();
  passed('what the server answers before the first frame is shown');
}

async function operator(server, page) {
  await press(page, 'Operator');
  await page.waitForSelector('.heat canvas');
  await page.waitForFunction(() => document.querySelectorAll('.chart canvas').length === 3);
  const tiles = Object.fromEntries(await page.$$eval('.tile', (all) => all.map((one) => [one.querySelector('dt').textContent, one.querySelector('dd').textContent])));
  assert.ok(Number(tiles.Connections) >= 1 && tiles.Queued === '0' && tiles['Memory of models'].includes('MiB'), JSON.stringify(tiles));
  await press(page, 'Models', 'link');
  await press(page, 'Unload: seed-5.7m');
  await page.locator('dialog[open] button.danger').click();
  await press(page, 'Load: seed-5.7m');
  await page.waitForSelector('::-p-aria([name="Unload: seed-5.7m"])');
  passed('the operator sees load and experts, and loads and unloads models');
}

async function languages(page) {
  await press(page, 'Help');
  await choose(page, 'Language', 'zh');
  await shows(page, '键盘');
  await choose(page, '外观', 'dark');
  await page.waitForSelector('html[lang="zh-CN"][data-theme="dark"]');
  await page.keyboard.press('Escape');
  const restore = await intercept(page, answerWith('你好！很高兴见到你。'));
  await press(page, '新对话');
  await send(page, '你好');
  await shows(page, '很高兴见到你');
  await restore();
  await page.reload();
  await shows(page, '新对话');
  await page.waitForSelector('html[lang="zh-CN"][data-theme="dark"]');
  passed('Chinese and dark are chosen and kept');
}

export async function chats(server) {
  const page = await open(server.url);
  await page.waitForSelector('select.model');
  await streamsAndStops(server, page);
  await keepsAndBranches(page);
  await settings(page);
  await keyboard(page);
  await files(page);
  await full(page);
  await refusals(page);
  await lost();
  await slow(server);
  await operator(server, page);
  await languages(page);
  await page.browserContext().close();
}
