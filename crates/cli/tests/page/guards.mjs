// What keeps other sites from the page and from the server behind it.
import assert from 'node:assert/strict';
import http from 'node:http';
import { gunzipSync } from 'node:zlib';
import { ask, browser, open, passed, wrongs } from './browser.mjs';

/** A site of somebody else, in the same browser. */
async function site(html) {
  const server = http.createServer((_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end(html));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

export async function guards(server) {
  const accept = { accept: 'text/html' };
  const { status, headers, text } = await ask(`${server.url}/`, { headers: accept });
  assert.equal(status, 200);
  const policy = headers['content-security-policy'];
  assert.ok(policy.includes("default-src 'none'") && policy.includes("frame-ancestors 'none'") && !policy.includes('unsafe'), policy);
  assert.equal(headers['x-frame-options'], 'DENY');
  assert.equal((await ask(`${server.url}/`, { headers: { ...accept, host: 'evil.example' } })).status, 421);
  assert.equal((await ask(`${server.url}/page/app.js`, { headers: { host: 'evil.example' } })).status, 421);
  assert.ok((await ask(`${server.url}/`)).text.includes('is running'), 'programs get a text');

  // What a first visit loads.
  const bytes = await Promise.all(
    ['/', ...text.matchAll(/"(\/page\/[^"]+)"/g)].map(async (found) => {
      const path = typeof found === 'string' ? found : found[1];
      const response = await fetch(server.url + path, { headers: { ...accept, 'accept-encoding': 'gzip' } });
      return Number(response.headers.get('content-length'));
    }),
  );
  const sum = bytes.reduce((a, b) => a + b, 0);
  assert.ok(sum > 10_000 && sum < 400 * 1024, String(bytes));

  const page = await open(server.url);
  await page.waitForSelector('#message');
  const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
  passed(`policy, names and weight: ${(sum / 1024).toFixed(0)} KB in ${bytes.length} files, first paint after ${Math.round(paint)} ms`);
  await page.browserContext().close();

  // A site in the same browser: neither frames the page nor asks the server.
  const evil = await site(`<iframe src="${server.url}/"></iframe>`);
  const context = await browser.createBrowserContext();
  const other = await context.newPage();
  await other.goto(evil.url);
  const frame = other.frames()[1];
  assert.ok(!frame || !frame.url().startsWith(server.url) || (await frame.$('#message')) === null, 'framed');
  const before = (await ask(`${server.url}/metrics`)).text.match(/farthing_requests_total\{route="\/v1\/chat\/completions",status="200".*/g);
  const outcomes = await other.evaluate(async (url) => {
    const body = JSON.stringify({ messages: [{ role: 'user', content: 'x' }], max_tokens: 1 });
    const attempt = (type, mode) => fetch(`${url}/v1/chat/completions`, { method: 'POST', mode, body, headers: { 'content-type': type } }).then(
      (response) => response.type,
      () => 'refused',
    );
    return [await attempt('application/json', 'cors'), await attempt('text/plain', 'no-cors'), await fetch(`${url}/v1/models`).then(() => 'read', () => 'refused')];
  }, server.url);
  assert.deepEqual(outcomes, ['refused', 'opaque', 'refused']);
  const after = (await ask(`${server.url}/metrics`)).text.match(/farthing_requests_total\{route="\/v1\/chat\/completions",status="200".*/g);
  assert.deepEqual(after, before, 'a form of another site was answered');
  // A name of another site that leads to this machine.
  const rebound = await other.goto(`http://evil.example:${server.port}/`);
  assert.equal(rebound.status(), 421);
  await context.close();
  evil.close();
  assert.deepEqual(wrongs, []);
  passed('frames, forms and requests of other sites, and rebound names, are refused');
}
