// A message: its text as blocks, what the model thought, and what can be done with it.
import { memo } from './memo';
import { useEffect, useId, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Token } from 'marked';
import { choose, current, goOn, regenerate, running, send } from './chats';
import { type Message, siblings } from './conversation';
import { CopyButton } from './dialog';
import { Left, Right } from './icons';
import { GrowingBlocks, blocks, render } from './markdown';
import { money, number } from './money';
import { session } from './session';
import { language, t } from './texts';

const Block = memo(
  ({ token, final }: { token: Token; final: boolean; language: string }) => {
    const ref = useRef<HTMLDivElement>(null);
    useLayoutEffect(() => ref.current?.replaceChildren(render(token, final)));
    return <div class="block" ref={ref} />;
  },
  (a, b) => a.token.raw === b.token.raw && a.token.type === b.token.type && a.final === b.final && a.language === b.language,
);

/** A text of a model. While it grows, only its last blocks are rendered again. */
const Text = memo(({ text, live, language }: { text: string; live: boolean; language: string }) => {
  const growing = useRef<GrowingBlocks | undefined>(undefined);
  if (live) growing.current ??= new GrowingBlocks();
  else growing.current = undefined;
  const tokens = growing.current ? growing.current.blocks(text) : blocks(text);
  return (
    <div class="text">
      {tokens.map((token, i) => (
        <Block key={i} token={token} final={!live || i < tokens.length - 1} language={language} />
      ))}
    </div>
  );
});

function Reasoning({ message, live }: { message: Message; live: boolean }) {
  const thinking = live && message.text === '';
  const tokens = message.usage?.reasoning;
  return (
    <details class="reasoning">
      <summary>{thinking ? t('thinking') : tokens ? t('thoughtFor', { tokens: number(tokens) }) : t('thought')}</summary>
      <Text text={message.reasoning ?? ''} live={live} language={language.value} />
    </details>
  );
}

function Versions({ message, disabled }: { message: Message; disabled: boolean }) {
  const all = siblings(current.value, message.parent);
  if (all.length < 2) return null;
  const at = all.findIndex((one) => one.id === message.id);
  return (
    <span class="versions">
      <button type="button" class="quiet icon small" aria-label={t('previous')} disabled={disabled || at === 0} onClick={() => choose(all[at - 1])}>
        <Left />
      </button>
      <span>{t('versionOf', { at: at + 1, count: all.length })}</span>
      <button type="button" class="quiet icon small" aria-label={t('next')} disabled={disabled || at === all.length - 1} onClick={() => choose(all[at + 1])}>
        <Right />
      </button>
    </span>
  );
}

/** Tokens, speed and cost of an answer, of all its parts. What a part cost that was cut off is not known, and not said. */
function Figures({ message }: { message: Message }) {
  const { usage, seen, parts, decodeMs, firstMs } = message;
  const { ledger, currency } = session.use();
  if (!usage && seen === undefined) return null;
  const output = (usage?.output ?? 0) + (seen ?? 0);
  const gaps = output - (parts ?? 1);
  const speed = decodeMs && decodeMs > 20 && gaps > 0 ? (gaps / decodeMs) * 1000 : undefined;
  const all = [
    ...(usage ? [t('figures', { prompt: number(usage.prompt), cached: number(usage.cached), output: number(usage.output), first: number((firstMs ?? 0) / 1000, 2) })] : []),
    ...(parts && parts > 1 ? [t('figuresParts', { parts: number(parts) })] : []),
    ...(seen === undefined ? [] : [t('figuresSeen', { seen: number(seen) })]),
    ...(seen !== undefined && ledger ? [t('figuresCut')] : []),
  ].join(' ');
  const cost = usage?.cost === undefined ? undefined : money(usage.cost, currency);
  return (
    <span class="figures" title={all}>
      <span>{t(seen === undefined ? 'tokens' : 'tokensAbout', { count: number(output) })}</span>
      {speed !== undefined && <span class="speed">{t('speed', { speed: number(speed, speed < 10 ? 1 : 0) })}</span>}
      {cost !== undefined && (
        <span class="cost" aria-label={`${t('cost')}: ${seen === undefined ? cost : t('costLeast', { cost })}`}>
          {seen === undefined ? cost : t('costLeast', { cost })}
        </span>
      )}
      {seen !== undefined && ledger && <span class="uncounted">{t('cutCharged')}</span>}
    </span>
  );
}

function Editor({ message, onEnd }: { message: Message; onEnd: () => void }) {
  const [text, setText] = useState(message.text);
  const ref = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    ref.current?.focus();
    ref.current?.setSelectionRange(text.length, text.length);
  }, []);
  const resend = () => {
    if (!text.trim()) return;
    onEnd();
    send(text, message);
  };
  return (
    <form
      class="editor"
      onSubmit={(event) => {
        event.preventDefault();
        resend();
      }}
    >
      <textarea
        ref={ref}
        aria-label={t('editLabel')}
        rows={Math.min(12, text.split('\n').length + 1)}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.isComposing) return;
          if (event.key === 'Escape') {
            event.stopPropagation();
            onEnd();
          } else if (event.key === 'Enter' && !event.shiftKey) {
            event.preventDefault();
            resend();
          }
        }}
      />
      <div class="buttons">
        <button type="button" onClick={onEnd}>
          {t('cancel')}
        </button>
        <button type="submit" class="primary" disabled={!text.trim()}>
          {t('resend')}
        </button>
      </div>
    </form>
  );
}

function noteOf(message: Message, live: boolean): string | undefined {
  if (live) return undefined;
  if (message.finish === undefined) return t('interrupted');
  if (message.finish === 'lost' || message.finish === 'error') return t('lost');
  if (message.finish === 'stopped') return t('stopped');
  if (message.finish === 'length') return t('cut');
  return message.text === '' && !message.reasoning ? t('empty') : undefined;
}

function Reply({ message, live, busy }: { message: Message; live: boolean; busy: boolean }) {
  const note = noteOf(message, live);
  const waiting = live && message.text === '' && !message.reasoning;
  return (
    <>
      {message.reasoning && <Reasoning message={message} live={live} />}
      {waiting ? <p class="waiting">{t('waiting')}</p> : <Text text={message.text} live={live} language={language.value} />}
      {note && <p class="note">{note}</p>}
      {!live && (
        <div class="actions">
          <CopyButton text={() => message.text} class="quiet small" />
          <button type="button" class="quiet small" disabled={busy} onClick={() => regenerate(message.parent)}>
            {t('regenerate')}
          </button>
          {note && message.text !== '' && (
            <button type="button" class="quiet small" disabled={busy} onClick={() => goOn(message)}>
              {t('goOn')}
            </button>
          )}
          <Versions message={message} disabled={busy} />
          <Figures message={message} />
        </div>
      )}
    </>
  );
}

function Question({ message, busy }: { message: Message; busy: boolean }) {
  const [editing, setEditing] = useState(false);
  const edit = useRef<HTMLButtonElement>(null);
  const end = () => {
    setEditing(false);
    requestAnimationFrame(() => edit.current?.focus());
  };
  useEffect(() => {
    const begin = (event: Event) => (event as CustomEvent<string>).detail === message.id && setEditing(true);
    addEventListener('edit-message', begin);
    return () => removeEventListener('edit-message', begin);
  }, [message.id]);
  if (editing) return <Editor message={message} onEnd={end} />;
  return (
    <>
      <div class="asked">{message.text}</div>
      <div class="actions">
        <button ref={edit} type="button" class="quiet small" disabled={busy} onClick={() => setEditing(true)}>
          {t('edit')}
        </button>
        <CopyButton text={() => message.text} class="quiet small" />
        <Versions message={message} disabled={busy} />
      </div>
    </>
  );
}

export const MessageView = memo(({ message, live, busy }: { message: Message; live: boolean; busy: boolean; language: string; count: number }) => {
  const id = useId();
  const mine = message.role === 'user';
  return (
    <article class={mine ? 'message mine' : 'message'} aria-labelledby={id} aria-busy={live}>
      <h2 id={id} class={mine ? 'offscreen' : 'who'}>
        {mine ? t('you') : message.model || t('assistant')}
      </h2>
      {mine ? <Question message={message} busy={busy} /> : <Reply message={message} live={live} busy={busy} />}
    </article>
  );
});

export const isLive = (conversation: string, message: Message, last: boolean) =>
  last && message.role === 'assistant' && message.finish === undefined && running.value.has(conversation);
