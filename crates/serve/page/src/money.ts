// Amounts, counts and times as people read them.
import { language } from './texts';

const locale = () => (language.value === 'zh' ? 'zh-CN' : 'en');

/** An amount in units of a currency. */
export function money(amount: number, currency: string): string {
  const digits = amount !== 0 && Math.abs(amount) < 0.01 ? 6 : amount % 1 !== 0 && Math.abs(amount) < 1 ? 4 : 2;
  const options = { minimumFractionDigits: 2, maximumFractionDigits: digits };
  try {
    return new Intl.NumberFormat(locale(), { style: 'currency', currency, currencyDisplay: 'narrowSymbol', ...options }).format(amount);
  } catch {
    return `${new Intl.NumberFormat(locale(), options).format(amount)} ${currency}`;
  }
}

/** Micro-units, as the ledger counts. */
export const micros = (amount: unknown, currency: string) => money((Number(amount) || 0) / 1e6, currency);

/** Micro-units of a decimal number that somebody wrote, to the digit; undefined if it is none. */
export function toMicros(written: string): number | undefined {
  const match = /^(\d{1,9})(?:[.,](\d{1,6}))?$/.exec(written.trim());
  if (!match) return undefined;
  return Number(match[1]) * 1_000_000 + Number((match[2] ?? '').padEnd(6, '0'));
}

export const number = (value: number, digits = 0) => new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);

/** 1.2 K, 3.4 M. */
export const short = (value: number) => new Intl.NumberFormat(locale(), { notation: 'compact', maximumFractionDigits: 1 }).format(value);

export function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${number(value, unit > 0 && value < 100 ? 1 : 0)} ${units[unit]}`;
}

export const when = (ms: number) => new Intl.DateTimeFormat(locale(), { dateStyle: 'medium', timeStyle: 'short' }).format(ms);
export const day = (ms: number) => new Intl.DateTimeFormat(locale(), { dateStyle: 'medium' }).format(ms);
