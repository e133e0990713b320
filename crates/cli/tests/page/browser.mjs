// Servers, Chromium, and what the parts of the test share.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import http from 'node:http';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import puppeteer from 'puppeteer-core';

export const work = dirname(fileURLToPath(import.meta.url));
const [, , farthing, chromium, model] = process.argv;

const servers = new Set();
process.on('exit', () => servers.forEach((server) => server.kill('SIGKILL')));

/** A server of the tests' model; `url` is where it is. */
export const serve = (...args) => serveBundled(model, '--context', '2048', ...(args.includes('--ledger') ? [] : ['--ledger', 'off']), ...args);

/** A server of the bundled model, unless another is given. */
export async function serveBundled(...args) {
  const child = spawn(farthing, ['serve', '--port', '0', '--disk-cache', 'off', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  servers.add(child);
  const said = [];
  const url = await new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        said.push(line);
        const found = /^serving .* at (http:\/\/[^ ]*)\/v1 /.exec(line);
        if (found) resolve(found[1].replace('127.0.0.1', 'localhost'));
      });
    }
    child.on('exit', (code) => reject(new Error(`the server ended with ${code}:\n${said.join('\n')}`)));
  });
  return {
    url,
    port: Number(new URL(url).port),
    async stop(signal = 'SIGTERM') {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill(signal);
        await once(child, 'exit');
      }
      servers.delete(child);
    },
  };
}

/** What a command prints. */
export async function command(...args) {
  const child = spawn(farthing, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (data) => (out += data));
  const [code] = await once(child, 'exit');
  assert.equal(code, 0, `farthing ${args.join(' ')}`);
  return out.trim();
}

/** A request without a browser: its status, headers and text. */
export function ask(url, { method = 'GET', headers = {}, body } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (data) => (text += data));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, text }));
    });
    request.on('error', reject);
    request.end(body);
  });
}

export const browser = await puppeteer.launch({
  executablePath: chromium,
  // What is waited for has limits of its own.
  protocolTimeout: 0,
  // evil.example is a name that leads to this machine, as in DNS rebinding. CI runs as root, where Chromium has no sandbox.
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--force-color-profile=srgb', '--host-resolver-rules=MAP evil.example 127.0.0.1', '--no-proxy-server'],
});

/** What pages asked elsewhere, and errors of scripts and of the policy: none of it may happen. */
export const wrongs = [];

/** A page of a browser of its own, without anything kept; `prepare` has it before it is loaded. */
export async function open(url, { width = 1280, height = 860, scheme = 'light', language = 'en', context, timeout = 60_000, prepare } = {}) {
  const own = context ?? (await browser.createBrowserContext());
  const page = await own.newPage();
  await page.setViewport({ width, height, deviceScaleFactor: 1 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.evaluateOnNewDocument((tag) => Object.defineProperty(navigator, 'languages', { get: () => [tag] }), language === 'zh' ? 'zh-CN' : 'en-GB');
  const origin = new URL(url).origin;
  page.on('request', (request) => {
    const to = request.url();
    if (!to.startsWith(`${origin}/`) && !/^(data|blob|about|chrome-error):/.test(to)) wrongs.push(`a request to ${to}`);
  });
  page.on('pageerror', (error) => wrongs.push(`an error of a script: ${error.message}`));
  page.on('console', (message) => {
    if (/Content.Security.Policy|TrustedHTML|Refused to/i.test(message.text())) wrongs.push(`the policy was asked for something: ${message.text()}`);
  });
  page.setDefaultTimeout(timeout);
  await prepare?.(page);
  await page.goto(url, { waitUntil: 'load' });
  return page;
}

/** Presses a button, or follows a link, by its name. */
export const press = (page, name, role = 'button') => page.locator(`::-p-aria([name="${name}"][role="${role}"])`).click();

/** Writes into a field by its label. */
export async function fill(page, label, text) {
  let field;
  do field = await page.waitForSelector(`::-p-aria([name="${label}"])`, { visible: true });
  // Until a dialog is open, a column behind it may have that name.
  while (!(await field.evaluate((element) => element.matches('input, textarea'))));
  await field.evaluate((element) => element.select());
  await field.press('Backspace');
  await field.type(text);
}

export const choose = async (page, label, value) => {
  const field = await page.waitForSelector(`::-p-aria([name="${label}"][role="combobox"])`, { visible: true });
  await field.select(value);
};

/** Waits until the page shows a text. */
export const shows = (page, text) => page.waitForFunction((wanted) => document.body.innerText.includes(wanted), {}, text);

export const texts = (page, selector) => page.$$eval(selector, (all) => all.map((one) => one.textContent));

/** Sends a message and waits for the end of its answer. */
export async function send(page, text) {
  const before = (await page.$$('.figures')).length;
  const field = await page.waitForSelector('#message');
  await page.waitForFunction(() => !document.querySelector('.composer [aria-label="Stop"], .composer [aria-label="停止"]'));
  await field.focus();
  // All at once: long texts would take long key by key.
  await page.keyboard.sendCharacter(text);
  await field.press('Enter');
  await page.waitForFunction((count) => document.querySelectorAll('.figures').length > count, {}, before);
}

/** Changes what the page asks for a chat completion, or answers in the server's place. */
export async function intercept(page, handle) {
  await page.setRequestInterception(true);
  const on = (request) => {
    if (request.isInterceptResolutionHandled()) return;
    if (request.url().endsWith('/intercepted')) return void request.respond({ status: 204 });
    if (!request.url().endsWith('/v1/chat/completions') || request.method() !== 'POST') return void request.continue();
    handle(request);
  };
  page.on('request', on);
  // The first requests after it was asked for may still go past it.
  while ((await page.evaluate(() => fetch('/intercepted').then(({ status }) => status))) !== 204);
  return async () => {
    page.off('request', on);
    await page.setRequestInterception(false);
  };
}

/** The model's end-of-text token is out of the question. */
export const NO_END = { 1: -100 };

/** Never ends by itself, and has the same words each time. */
export const endless = (request) => {
  const body = { ...JSON.parse(request.postData()), messages: [{ role: 'user', content: 'Tell me a long story.' }], temperature: 1, seed: 1 };
  void request.continue({ postData: JSON.stringify({ ...body, logit_bias: NO_END, max_tokens: 1800 }) });
};

/** A stream of events as the server writes it. */
export function events(text, { reasoning = '', usage = {} } = {}) {
  const event = (value) => `data: ${JSON.stringify(value)}\n\n`;
  const delta = (value) => event({ choices: [{ index: 0, delta: value, finish_reason: null }] });
  const pieces = text.match(/[^]{1,7}/gu) ?? [];
  const counted = { prompt_tokens: 12, completion_tokens: pieces.length, prompt_tokens_details: { cached_tokens: 4 }, completion_tokens_details: { reasoning_tokens: 5 }, ...usage };
  return [
    ...(reasoning ? [delta({ reasoning_content: reasoning })] : []),
    ...pieces.map((piece) => delta({ content: piece })),
    event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }),
    event({ choices: [], usage: counted }),
    'data: [DONE]\n\n',
  ].join('');
}

export const answerWith = (text, options) => (request) => void request.respond({ status: 200, contentType: 'text/event-stream', body: events(text, options) });

export const screenshots = join(work, 'screenshots');
mkdirSync(screenshots, { recursive: true });

export const shoot = (page, name) => page.screenshot({ path: join(screenshots, `${name}.png`) });

/** What all pages show when the test fails. */
export async function shootAll() {
  const pages = await browser.pages();
  for (const [at, page] of pages.entries()) await shoot(page, `failed-${at}`).catch(() => {});
  console.error(`page: ${pages.length} pages as they were at the failure are in ${screenshots}`);
}

/** A picture for the documents: among the screenshots, or in the directory FARTHING_PICTURES. */
export const picture = (page, name) => page.screenshot({ path: join(process.env.FARTHING_PICTURES || screenshots, `${name}.webp`), type: 'webp', quality: 90 });

export function passed(what) {
  assert.deepEqual(wrongs, [], what);
  console.log(`page: ${what}`);
}
