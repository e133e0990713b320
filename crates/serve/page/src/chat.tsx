// The conversation that is shown: its messages, and the field for the next one.
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { MessageView, isLive } from './answer';
import { type ApiError, json } from './api';
import { changed, current, refusals, regenerate, running, send, stop } from './chats';
import { path } from './conversation';
import { Coin, Down, Sliders, Square, Up } from './icons';
import { userKey } from './keys';
import { micros } from './money';
import { chooseModel, connect, modelOf, session } from './session';
import { language, t } from './texts';

/** What is left of an account whose balance or budget is used up. */
function Left() {
  const [text, setText] = useState<string[]>([]);
  useEffect(() => {
    const ask = async () => {
      const { key, account, left, currency } = await json('/user/key', { key: userKey.value });
      const budgets = [left?.balance, left?.money?.day, left?.money?.month, left?.money?.total].filter((one) => typeof one === 'number');
      const least = budgets.length > 0 ? [t('errorQuotaLeft', { left: micros(Math.min(...budgets), currency) })] : [];
      setText([...least, t('errorQuotaHow', { account: String(account.name), hint: String(key.hint) })]);
    };
    ask().catch(() => {});
  }, []);
  return (
    <>
      {text.map((line) => (
        <p key={line}>{line}</p>
      ))}
    </>
  );
}

function headline({ status, code }: ApiError): string {
  if (code === 'context_length_exceeded') return t('errorLong');
  switch (status) {
    case 0:
      return t(code === 'lost' ? 'lost' : 'errorNetwork');
    case 401:
      return t('errorKey');
    case 402:
      return t('errorQuota');
    case 403:
      return t('errorForbidden');
    case 429:
      return t('errorBusy');
    case 503:
      return t('errorUnavailable');
    default:
      return t('errorOther', { status });
  }
}

/** Why a request was refused, and what to do. */
function Refusal({ error, at, onRetry }: { error: ApiError; at: number; onRetry: () => void }) {
  const waits = (error.status === 429 || error.status === 503) && error.retryAfter !== undefined;
  const left = () => (waits ? Math.max(0, Math.ceil(at / 1000 + error.retryAfter! - Date.now() / 1000)) : 0);
  const [seconds, setSeconds] = useState(left);
  useEffect(() => {
    setSeconds(left());
    if (!waits) return;
    const every = setInterval(() => setSeconds(left()), 500);
    return () => clearInterval(every);
  }, [error]);
  return (
    <div class="refusal" role="alert">
      <strong>{headline(error)}</strong>
      {error.status === 402 && <Left />}
      {error.message && error.status !== 0 && <p class="said">{t('errorSaid', { message: error.message })}</p>}
      <div class="buttons start">
        <button type="button" onClick={onRetry} disabled={seconds > 0}>
          {t('retry')}
        </button>
        {waits && <span aria-hidden="true">{seconds > 0 ? t('errorBusyWait', { seconds }) : t('errorBusyNow')}</span>}
      </div>
    </div>
  );
}

function ModelChoice() {
  const { models } = session.use();
  const conversation = current.use();
  const model = modelOf(conversation.model);
  if (models.length === 0) return <span class="model">{t('noModels')}</span>;
  const state = { ready: 'modelReady', loading: 'modelLoading', absent: 'unloaded' } as const;
  const choose = (id: string) => {
    chooseModel(id);
    changed(Object.assign(conversation, { model: id }));
  };
  return (
    <select class="model" aria-label={t('model')} value={model?.id} onChange={(event) => choose(event.currentTarget.value)} title={model && t(model.state === 'absent' ? 'modelAbsent' : state[model.state])}>
      {models.map((one) => (
        <option key={one.id} value={one.id}>
          {one.id}
          {one.state !== 'ready' ? ` · ${t(state[one.state])}` : ''}
        </option>
      ))}
    </select>
  );
}

function Composer({ busy, ready }: { busy: boolean; ready: boolean }) {
  const conversation = current.use();
  const [text, setText] = useState('');
  const ref = useRef<HTMLTextAreaElement>(null);
  const drafts = useRef(new Map<string, string>());
  const shown = useRef(conversation.id);
  if (shown.current !== conversation.id) {
    drafts.current.set(shown.current, text);
    shown.current = conversation.id;
    setText(drafts.current.get(conversation.id) ?? '');
  }
  useLayoutEffect(() => {
    const area = ref.current!;
    area.style.height = 'auto';
    area.style.height = `${Math.min(area.scrollHeight, innerHeight * 0.4)}px`;
  }, [text]);
  const submit = () => {
    if (busy || !ready || !text.trim()) return;
    setText('');
    send(text);
  };
  const editLast = () => {
    const last = path(conversation).findLast((message) => message.role === 'user');
    if (last) dispatchEvent(new CustomEvent('edit-message', { detail: last.id }));
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <textarea
        ref={ref}
        id="message"
        rows={1}
        aria-label={t('messageLabel')}
        placeholder={t('messageHint')}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.isComposing || event.keyCode === 229) return;
          if (event.key === 'Enter' && !event.shiftKey && !event.altKey) {
            event.preventDefault();
            submit();
          } else if (event.key === 'ArrowUp' && text === '' && !busy) {
            event.preventDefault();
            editLast();
          }
        }}
      />
      {busy ? (
        <button type="button" class="primary icon" aria-label={t('stop')} title={t('stop')} onClick={() => stop(conversation.id)}>
          <Square />
        </button>
      ) : (
        <button type="submit" class="primary icon" aria-label={t('send')} title={t('send')} disabled={!ready || !text.trim()}>
          <Up />
        </button>
      )}
    </form>
  );
}

/** Tries again by itself, and when it is asked to. */
function Offline() {
  useEffect(() => {
    const every = setInterval(() => void connect(), 5000);
    return () => clearInterval(every);
  }, []);
  return (
    <p class="banner" role="alert">
      {t('offline')}{' '}
      <button type="button" class="small" onClick={() => void connect()}>
        {t('retry')}
      </button>
    </p>
  );
}

/** Keeps the end in view while it is, and lets the reader go elsewhere. */
function useFollowing(id: string, changes: unknown) {
  const ref = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const [away, setAway] = useState(false);
  const toEnd = () => {
    following.current = true;
    setAway(false);
    ref.current?.scrollTo({ top: ref.current.scrollHeight });
  };
  useLayoutEffect(toEnd, [id]);
  useLayoutEffect(() => {
    if (following.current) ref.current?.scrollTo({ top: ref.current.scrollHeight });
  }, [changes]);
  const onScroll = () => {
    const area = ref.current!;
    following.current = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
    setAway(!following.current);
  };
  return { ref, onScroll, away, toEnd };
}

/** What stands in the head of the page beside a conversation. */
export function ChatTools({ onSettings }: { onSettings: () => void }) {
  return (
    <>
      <ModelChoice />
      <button type="button" class="quiet icon" aria-label={t('settings')} title={t('settings')} onClick={onSettings}>
        <Sliders />
      </button>
    </>
  );
}

export function Chat() {
  const conversation = current.use();
  const runs = running.use();
  const { state } = session.use();
  const refusal = refusals.use().get(conversation.id);
  const messages = path(conversation);
  const busy = runs.has(conversation.id);
  const { ref, onScroll, away, toEnd } = useFollowing(conversation.id, conversation);
  const last = messages.at(-1);
  const versions = new Map<string, number>();
  for (const { parent } of Object.values(conversation.messages)) versions.set(parent, (versions.get(parent) ?? 0) + 1);
  const unanswered = !busy && last?.role === 'user';
  return (
    <>
      <div class="messages" ref={ref} onScroll={onScroll} tabIndex={-1}>
        <div class="column">
          {messages.length === 0 && (
            <div class="greeting">
              <Coin size={56} />
              <h2>{t('greeting')}</h2>
              {session.value.models.length > 0 && <p>{t('greetingHint', { model: modelOf(conversation.model)?.id ?? '' })}</p>}
            </div>
          )}
          {messages.map((message, i) => (
            <MessageView
              key={message.id}
              message={message}
              live={isLive(conversation.id, message, i === messages.length - 1)}
              busy={busy}
              language={language.value}
              count={versions.get(message.parent) ?? 1}
            />
          ))}
          {refusal && !busy && <Refusal error={refusal.error} at={refusal.at} onRetry={() => last && regenerate(last.role === 'user' ? last.id : last.parent)} />}
          {unanswered && !refusal && (
            <div class="buttons start">
              <button type="button" onClick={() => regenerate(last.id)}>
                {t('regenerate')}
              </button>
            </div>
          )}
        </div>
      </div>
      <div class="foot column">
        {away && (
          <button type="button" class="to-end icon" aria-label={t('toEnd')} title={t('toEnd')} onClick={toEnd}>
            <Down />
          </button>
        )}
        {state === 'offline' && <Offline />}
        <Composer busy={busy} ready={state === 'ready'} />
      </div>
    </>
  );
}
