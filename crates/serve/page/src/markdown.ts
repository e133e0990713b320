// A model's text as elements. It is hostile: HTML in it is text, nothing is loaded, and all passes DOMPurify's list of tags.
import DOMPurify from 'dompurify';
import { Marked, type Token, type TokenizerAndRendererExtension } from 'marked';
import temml from 'temml';
import { copyButton } from './copy';
import { highlighted } from './highlight';

export const escaped = (text: string) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

/** Characters of a formula at most. */
const FORMULA_MAX = 10_000;

function formula(source: string, displayMode: boolean): string {
  const plain = `<code>${escaped(source)}</code>`;
  if (source.length > FORMULA_MAX) return plain;
  try {
    const math = temml.renderToString(source, { displayMode, throwOnError: true, trust: false, maxExpand: 1000, maxSize: [20, 20] });
    // Style attributes are against the page's policy; what is harmless in them is set below.
    return math.replaceAll(' style="', ' data-style="');
  } catch {
    return plain;
  }
}

/** Formulas: \( \), \[ \], $$ $$, and $ $ where it cannot be an amount of money. */
const blockMath: TokenizerAndRendererExtension = {
  name: 'blockMath',
  level: 'block',
  start(source) {
    // Within this paragraph: to look through all that follows, for each paragraph, would take long.
    const end = source.search(/\n[ \t]*\n/);
    return /^(?:\$\$|\\\[)/m.exec(end < 0 ? source : source.slice(0, end))?.index;
  },
  tokenizer(source) {
    const match = /^ {0,3}(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\])[ \t]*(?:\n|$)/.exec(source);
    return match ? { type: 'blockMath', raw: match[0], text: (match[1] ?? match[2]).trim() } : undefined;
  },
  renderer: (token) => `<p>${formula(token.text, true)}</p>\n`,
};
const inlineMath: TokenizerAndRendererExtension = {
  name: 'inlineMath',
  level: 'inline',
  start: (source) => /\$|\\\(|\\\[/.exec(source)?.index,
  tokenizer(source) {
    const display = /^(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\])/.exec(source);
    if (display) return { type: 'inlineMath', raw: display[0], text: display[1] ?? display[2], display: true };
    const match = /^(?:\\\(([^]+?)\\\)|\$(?!\s)((?:\\.|[^$\\\n])+)(?<!\s)\$(?!\d))/.exec(source);
    return match ? { type: 'inlineMath', raw: match[0], text: match[1] ?? match[2], display: false } : undefined;
  },
  renderer: (token) => formula(token.text, token.display),
};

function markdown(code: (text: string, language: string) => string | undefined): Marked {
  return new Marked({
    gfm: true,
    extensions: [blockMath, inlineMath],
    renderer: {
      html: ({ text }) => escaped(text),
      // Below the heading of the message.
      heading({ tokens, depth }) {
        const level = Math.min(depth + 2, 6);
        return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
      },
      // A picture elsewhere would tell others what is read here: it is a link.
      image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
      code({ text, lang }) {
        const language = /^[\w+#.-]+/.exec(lang ?? '')?.[0].toLowerCase() ?? '';
        return `<pre><code class="language-${language}">${code(text, language) ?? escaped(text)}</code></pre>`;
      },
    },
  });
}

const whole = markdown(highlighted);
/** Of a block that still grows, code is not highlighted at each of its tokens. */
const growing = markdown(() => undefined);

const HTML = 'a blockquote br code del em h1 h2 h3 h4 h5 h6 hr input li ol p pre span strong table tbody td th thead tr ul'.split(' ');
const MATH =
  'math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow ms mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover'.split(' ');
const ATTRIBUTES =
  'align checked class disabled href start type accent accentunder columnalign columnlines columnspacing columnspan data-style depth display displaystyle fence form height largeop linethickness lspace mathbackground mathcolor mathsize mathvariant maxsize minsize movablelimits notation rowalign rowlines rowspacing rowspan rspace scriptlevel separator stretchy symmetric voffset width'.split(' ');

const policy = {
  ALLOWED_TAGS: [...HTML, ...MATH],
  ALLOWED_ATTR: ATTRIBUTES,
  // Of all attributes, only this one is an address.
  ADD_URI_SAFE_ATTR: ATTRIBUTES.filter((name) => name !== 'href'),
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  RETURN_DOM_FRAGMENT: true as const,
};

/** Of a formula's styles, those that only move and colour. */
const STYLES = /^(?:color|background-color|(?:padding|margin)(?:-(?:left|right|top|bottom))?|border(?:-(?:left|right|top|bottom))?|text-align|vertical-align|width|height|font-weight|font-style)$/;

function setStyles(element: HTMLElement | MathMLElement, styles: string) {
  for (const style of styles.split(';')) {
    const [name, value] = style.split(':').map((part) => part.trim());
    if (STYLES.test(name) && /^[\w\s.#%-]{1,60}$/.test(value ?? '')) element.style.setProperty(name, value);
  }
}

function finish(fragment: DocumentFragment, copy: boolean) {
  for (const element of fragment.querySelectorAll<HTMLElement>('[data-style]')) {
    setStyles(element, element.getAttribute('data-style') ?? '');
    element.removeAttribute('data-style');
  }
  for (const link of fragment.querySelectorAll('a[href]')) {
    link.setAttribute('target', '_blank');
    link.setAttribute('rel', 'noopener noreferrer nofollow');
  }
  for (const table of fragment.querySelectorAll('table')) {
    const around = document.createElement('div');
    around.className = 'wide';
    around.tabIndex = 0;
    table.replaceWith(around);
    around.append(table);
  }
  for (const box of fragment.querySelectorAll('input')) {
    box.disabled = true;
    box.setAttribute('aria-label', box.checked ? '☑' : '☐');
  }
  for (const block of fragment.querySelectorAll('pre')) {
    block.tabIndex = 0;
    const language = /^language-(.*)/.exec(block.firstElementChild?.className ?? '')?.[1] ?? '';
    const around = document.createElement('div');
    around.className = 'code';
    const head = document.createElement('div');
    head.className = 'code-head';
    const label = document.createElement('span');
    label.textContent = language;
    head.append(label);
    block.replaceWith(around);
    around.append(head, block);
    if (copy) head.append(copyButton(() => block.textContent ?? ''));
  }
}

const paragraph = (text: string): Token => ({ type: 'html', raw: text, text, pre: false, block: true });

/** The blocks of a text; one block as it is where the parser gives up, as it does on thousands of nested quotes. */
function lexed(text: string): Token[] {
  try {
    return whole.lexer(text);
  } catch {
    return [paragraph(text)];
  }
}

function html(token: Token, final: boolean): string {
  try {
    return (final ? whole : growing).parser([token]);
  } catch {
    return escaped(token.raw);
  }
}

/** One block of a text. `final`: nothing is added to it any more, so its code is highlighted. */
export function render(token: Token, final: boolean): DocumentFragment {
  const fragment = DOMPurify.sanitize(html(token, final), policy) as unknown as DocumentFragment;
  finish(fragment, final);
  return fragment;
}

const normal = (text: string) => text.replace(/\r\n?/g, '\n');

/** The blocks of a text. */
export function blocks(text: string): Token[] {
  return lexed(normal(text)).filter((token) => token.type !== 'space' && token.type !== 'def');
}

/** The blocks of a text that grows: those that are whole are not looked at again. */
export class GrowingBlocks {
  #whole: Token[] = [];
  #length = 0;
  #text = '';

  blocks(text: string): Token[] {
    text = normal(text);
    if (!text.startsWith(this.#text)) {
      this.#whole = [];
      this.#length = 0;
    }
    this.#text = text;
    const open = lexed(text.slice(this.#length));
    // The last two can still become something else: a list goes on after an empty line.
    const done = open.slice(0, -2);
    const length = done.reduce((sum, token) => sum + token.raw.length, 0);
    if (done.length > 0 && text.slice(this.#length, this.#length + length) === done.map((token) => token.raw).join('')) {
      this.#whole.push(...done);
      this.#length += length;
      return [...this.#whole, ...open.slice(-2)].filter((token) => token.type !== 'space' && token.type !== 'def');
    }
    return [...this.#whole, ...open].filter((token) => token.type !== 'space' && token.type !== 'def');
  }
}
