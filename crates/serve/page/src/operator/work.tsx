// What the operator's tables share: lists that are asked for, and changes that are sent.
import { useEffect, useState } from 'preact/hooks';
import type { ComponentChildren } from 'preact';
import { ApiError, type Call, json } from '../api';
import { Field } from '../dialog';
import { operatorKey } from '../keys';
import { micros, number, toMicros } from '../money';
import { t } from '../texts';

export const asOperator = (path: string, call: Call = {}) => json(path, { ...call, key: operatorKey.value });

export function said(error: unknown): string {
  if (!(error instanceof ApiError)) return String(error);
  return error.status === 0 ? t('errorNetwork') : t('errorSaid', { message: error.message });
}

/** An answer that is asked for when the view is shown, and again after changes. */
export function useAnswer<T>(path: string) {
  const [answer, setAnswer] = useState<T | undefined>(undefined);
  const [problem, setProblem] = useState('');
  const ask = async () => {
    try {
      setAnswer(await asOperator(path));
      setProblem('');
    } catch (error) {
      setProblem(said(error));
    }
  };
  useEffect(() => void ask(), [path]);
  return { answer, problem, ask };
}

export const Problem = ({ text }: { text: string }) =>
  text ? (
    <p class="banner" role="alert">
      {text}
    </p>
  ) : null;

/** A form that sends a change; it stays open, with what was wrong, until that is done. */
export function ChangeForm({ send, action, danger, onClose, children }: { send: () => Promise<unknown>; action: string; danger?: boolean; onClose: () => void; children: ComponentChildren }) {
  const [problem, setProblem] = useState('');
  const [busy, setBusy] = useState(false);
  const submit = async () => {
    setBusy(true);
    setProblem('');
    try {
      await send();
    } catch (error) {
      setProblem(error instanceof ApiError ? said(error) : (error as Error).message);
    }
    setBusy(false);
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      {children}
      <Problem text={problem} />
      <div class="buttons">
        <button type="button" onClick={onClose}>
          {t('cancel')}
        </button>
        <button type="submit" class={danger ? 'danger' : 'primary'} disabled={busy}>
          {action}
        </button>
      </div>
    </form>
  );
}

/** A field of a form whose values are texts. */
export function Input({ label, hint, value, onInput, type, inputMode }: { label: string; hint?: string; value: string; onInput: (value: string) => void; type?: 'text' | 'date'; inputMode?: 'decimal' | 'numeric' }) {
  return (
    <Field label={label} hint={hint}>
      {(field) => <input {...field} type={(type ?? 'text') as 'text'} inputMode={inputMode} autocomplete="off" value={value} onInput={(event) => onInput(event.currentTarget.value)} />}
    </Field>
  );
}

/** Micro-units of what was written; undefined for nothing. */
export function amountOf(written: string): number | undefined {
  if (!written.trim()) return undefined;
  const micros = toMicros(written);
  if (micros === undefined) throw new Error(t('badAmount'));
  return micros;
}

export function countOf(written: string): number | undefined {
  if (!written.trim()) return undefined;
  if (!/^[1-9]\d{0,14}$/.test(written.trim())) throw new Error(t('badNumber'));
  return Number(written);
}

/** The end of a day that was chosen, in milliseconds since 1970; undefined for none. */
export const endOf = (date: string) => (date ? Date.parse(`${date}T00:00:00Z`) + 86_400_000 : undefined);

export interface Limits {
  models?: string[];
  requests_per_minute?: number;
  tokens_per_minute?: number;
  concurrency?: number;
  tokens?: Budget;
  money?: Budget;
}

interface Budget {
  day?: number;
  month?: number;
  total?: number;
}

const SPANS = ['day', 'month', 'total'] as const;
const RATES = ['requests_per_minute', 'tokens_per_minute', 'concurrency'] as const;

/** Limits as they are written in a form. */
export type WrittenLimits = Record<string, string>;

export function written(limits: Limits): WrittenLimits {
  const text = (value: number | undefined, scale = 1) => (value === undefined ? '' : String(value / scale));
  return {
    ...Object.fromEntries(RATES.map((name) => [name, text(limits[name])])),
    ...Object.fromEntries(SPANS.map((span) => [`tokens.${span}`, text(limits.tokens?.[span])])),
    ...Object.fromEntries(SPANS.map((span) => [`money.${span}`, text(limits.money?.[span], 1e6)])),
    models: (limits.models ?? []).join(', '),
  };
}

/** What is changed: null removes a limit. */
export function patch(form: WrittenLimits): object {
  const budget = (name: string, read: (text: string) => number | undefined) => Object.fromEntries(SPANS.map((span) => [span, read(form[`${name}.${span}`] ?? '') ?? null]));
  const models = (form.models ?? '').split(/[,，]/).map((model) => model.trim()).filter(Boolean);
  return {
    ...Object.fromEntries(RATES.map((name) => [name, countOf(form[name] ?? '') ?? null])),
    tokens: budget('tokens', countOf),
    money: budget('money', amountOf),
    models: models.length > 0 ? models : null,
  };
}

/** Limits in a few words. */
export function limitsText(limits: Limits, currency: string): string {
  const spans = { day: 'perDay', month: 'perMonth', total: 'inAll' } as const;
  const rates = { requests_per_minute: 'requestsPerMinute', tokens_per_minute: 'tokensPerMinute', concurrency: 'concurrency' } as const;
  const words = RATES.flatMap((name) => (limits[name] === undefined ? [] : [`${t(rates[name])}: ${number(limits[name])}`]));
  for (const span of SPANS) {
    const [tokens, money] = [limits.tokens?.[span], limits.money?.[span]];
    if (tokens !== undefined) words.push(`${t('tokens', { count: number(tokens) })} ${t(spans[span])}`);
    if (money !== undefined) words.push(`${micros(money, currency)} ${t(spans[span])}`);
  }
  if (limits.models?.length) words.push(limits.models.join(', '));
  return words.join(' · ') || t('unlimited');
}

export function LimitFields({ form, onChange, currency }: { form: WrittenLimits; onChange: (form: WrittenLimits) => void; currency: string }) {
  const field = (name: string, label: string, money = false) => (
    <Input key={name} label={label} value={form[name] ?? ''} inputMode={money ? 'decimal' : 'numeric'} onInput={(value) => onChange({ ...form, [name]: value })} />
  );
  const spans = { day: 'perDay', month: 'perMonth', total: 'inAll' } as const;
  return (
    <fieldset>
      <legend>{t('limits')}</legend>
      <p class="hint">{t('limitsHint')}</p>
      <div class="grid three">
        {field('requests_per_minute', t('requestsPerMinute'))}
        {field('tokens_per_minute', t('tokensPerMinute'))}
        {field('concurrency', t('concurrency'))}
        {SPANS.map((span) => field(`tokens.${span}`, `${t('tokenBudget')}, ${t(spans[span])}`))}
        {SPANS.map((span) => field(`money.${span}`, `${currency}, ${t(spans[span])}`, true))}
      </div>
      <Input label={t('modelsFor')} hint={t('modelsForHint')} value={form.models ?? ''} onInput={(models) => onChange({ ...form, models })} />
    </fieldset>
  );
}

export const stateText = (state: string) => {
  const names = { valid: 'stateValid', admin: 'stateAdmin', revoked: 'stateRevoked', expired: 'stateExpired' } as const;
  return state in names ? t(names[state as keyof typeof names]) : state === 'used up' || state === 'used' ? t('stateUsed') : state;
};

/** A table that scrolls where it is wider than the screen. */
export function Table({ label, head, children, empty }: { label: string; head: (string | { number: string })[]; children: ComponentChildren; empty: boolean }) {
  if (empty) return <p class="hint">{t('noRows')}</p>;
  return (
    <div class="wide" tabIndex={0} role="group" aria-label={label}>
      <table class="data">
        <thead>
          <tr>
            {head.map((one) => (
              <th key={typeof one === 'string' ? one : one.number} scope="col" class={typeof one === 'string' ? undefined : 'number'}>
                {typeof one === 'string' ? one : one.number}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}
