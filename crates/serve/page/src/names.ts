// Names of accounts, keys and invitations, as the ledger takes them.
import { t } from './texts';

const CHARACTERS_MAX = 100;

export class NameError extends Error {}

/** A name without outer and double spaces; an error where it cannot be one. */
export function nameOf(written: string): string {
  const name = written.trim().replace(/\s+/g, ' ');
  if (name === '' || [...name].length > CHARACTERS_MAX || /[\p{Cc}\p{Cf}]/u.test(name) || /^(key|acc|inv)_/.test(name)) throw new NameError(t('nameUnfit'));
  return name;
}
