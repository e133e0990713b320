// People in browsers behind a router, of whose servers one is killed while they talk. Usage: routed.mjs FARTHING CHROMIUM MODEL URL LINK ADMIN
// Says `talking` when all answers have begun, waits for a line, which says that a server was killed, and prints what came, a line of JSON.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { NO_END, browser, passed, picture, press, shootAll, shows } from './browser.mjs';
import { ask, begin, conversations, invited, running, watching } from './class.mjs';

const [, , , , , url, link, admin] = process.argv;
const NAMES = 'anna ben carla dora emil fay gus hana ivan june karl lena'.split(' ');
const [GREETING, STORY] = [0, 1];

/** In the page: notes what arrives of each answer, token by token, and names the requests; while `endless` is set, answers do not end by themselves. */
function note(name, noEnd) {
  const real = window.fetch;
  window.answers = [];
  const read = async (answer, body) => {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const line of lines.filter((one) => one.startsWith('data: {'))) {
        const event = JSON.parse(line.slice(6));
        for (const { logprobs } of event.choices ?? []) answer.tokens.push(...(logprobs?.content ?? []).map(() => Date.now() / 1000));
        answer.usage = event.usage ?? answer.usage;
        if (event.error) answer.error = JSON.stringify(event.error);
      }
    }
  };
  window.fetch = async (path, init) => {
    if (path !== '/v1/chat/completions') return real(path, init);
    const answer = { id: `${name}-${window.answers.length}-`, tokens: [], usage: null, error: '', server: '' };
    window.answers.push(answer);
    const body = { ...JSON.parse(init.body), logprobs: true, ...(window.endless && { logit_bias: noEnd, max_tokens: 700 }) };
    const response = await real(path, { ...init, headers: { ...init.headers, 'x-request-id': answer.id }, body: JSON.stringify(body) });
    answer.server = response.headers.get('x-smg-routed-worker-id') ?? '';
    if (!response.ok) {
      answer.error = `${response.status}`;
      return response;
    }
    const [mine, theirs] = response.body.tee();
    read(answer, mine).catch((error) => (answer.error = String(error)));
    return new Response(theirs, response);
  };
}

/** Whether the last answer of a page was cut, once it is over. */
async function wasCut(page) {
  await page.waitForFunction(() => !document.querySelector('.message[aria-busy="true"]'));
  return page.evaluate(() => document.querySelector('.message:last-of-type').innerText.includes('The connection was lost here.'));
}

/** Lets the model go on where the answer was cut. */
async function goOn(page) {
  const text = () => page.$eval('.message:last-of-type .text', (one) => one.innerText);
  const before = await text();
  await press(page, 'Continue');
  // While it is written there are no figures, and before that there is the note.
  await page.waitForFunction(() => document.querySelector('.message:last-of-type .figures') && !document.querySelector('.message:last-of-type .note'));
  assert.ok((await text()).startsWith(before) && !(await wasCut(page)), `${before}\n-- ${await text()}`);
}

async function killed(pages) {
  for (const page of pages) {
    await press(page, 'New chat');
    await page.waitForFunction(() => !document.querySelector('.message'));
    await page.evaluate(() => (window.endless = true));
  }
  await Promise.all(pages.map((page, at) => begin(page, conversations(at)[STORY][0])));
  await Promise.all(pages.map((page) => page.waitForFunction(() => window.answers.at(-1).tokens.length >= 60)));
  console.log('talking');
  await once(createInterface({ input: process.stdin }), 'line');
  const cut = [];
  for (const page of pages) {
    if (await wasCut(page)) cut.push(page);
    else assert.ok(await page.$('.message:last-of-type .figures'));
    await page.evaluate(() => (window.endless = false));
    assert.equal(await page.$('.refusal'), null, 'more than a note is shown');
  }
  assert.ok(cut.length > 0 && cut.length < pages.length, `${cut.length} of ${pages.length} answers were cut`);
  await picture(cut[0], 'routed-cut');
  await Promise.all(cut.map(goOn));
  await picture(cut[0], 'routed-continued');
  return cut.length;
}

try {
  const operator = await watching(url, admin);
  const pages = await Promise.all(NAMES.map((name) => invited(link, name, (page) => page.evaluateOnNewDocument(note, name, NO_END))));
  await Promise.all(pages.map((page, at) => ask(page, conversations(at)[GREETING][0])));
  const cut = await killed(pages);
  await Promise.all(pages.map((page, at) => ask(page, conversations(at)[STORY][1])));
  await operator.evaluate(() => (location.hash = '#/operator/accounts'));
  await shows(operator, 'lena');
  await operator.evaluate(() => (location.hash = '#/operator/load'));
  await running(operator, -1);
  const answers = await Promise.all(pages.map((page, at) => page.evaluate((key) => window.answers.map((answer) => ({ ...answer, key })), NAMES[at])));
  passed(`${pages.length} people behind a router: ${cut} answers cut by a kill, and continued by another server`);
  console.log(JSON.stringify(answers.flat()));
  await browser.close();
} catch (error) {
  await shootAll();
  throw error;
}
