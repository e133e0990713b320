// What this browser may do at the server: nothing before a key, where one is needed.
import { ApiError, type Model, json, models } from './api';
import { Cell } from './cell';
import { prefer, preference, setOperatorKey, setUserKey, userKey } from './keys';

export interface Session {
  state: 'asking' | 'ready' | 'needsKey' | 'offline';
  /** Why a key is asked for again. */
  problem?: 'wrong' | 'operators';
  models: Model[];
  /** The server counts and charges; else there are no accounts. */
  ledger: boolean;
  currency: string;
}

const nothing: Session = { state: 'asking', models: [], ledger: false, currency: '' };

export const session = new Cell<Session>(nothing);

/** The model of new conversations. */
export const chosenModel = new Cell(preference('model'));

export function chooseModel(id: string) {
  prefer('model', id);
  chosenModel.value = id;
}

/** The model that is meant by an id: one that is there. */
export function modelOf(id: string): Model | undefined {
  const { models } = session.value;
  return models.find((model) => model.id === id) ?? models.find((model) => model.id === chosenModel.value) ?? models[0];
}

/** Finds out what the key opens. */
export async function connect(): Promise<void> {
  const key = userKey.value;
  try {
    const list = await models(key);
    // A server that shows its models to everybody may need a key for all else.
    if (key === '') await json('/api/version');
    const ledger = key === '' ? undefined : await balance(key);
    session.value = { state: 'ready', models: list, ledger: ledger !== undefined, currency: ledger?.currency ?? '' };
  } catch (error) {
    const { status, code } = error instanceof ApiError ? error : new ApiError(0, '', '');
    if (code === 'admin_key') {
      setUserKey('', false);
      setOperatorKey(key, false);
      session.value = { ...nothing, state: 'needsKey', problem: 'operators' };
    } else if (status === 401) {
      session.value = { ...nothing, state: 'needsKey', ...(key !== '' && { problem: 'wrong' as const }) };
    } else {
      session.value = { ...session.value, state: 'offline' };
    }
  }
}

/** The models again: one was loaded, or unloaded. */
export async function refreshModels() {
  if (session.value.state !== 'ready') return;
  const list = await models(userKey.value).catch(() => undefined);
  if (list && session.value.state === 'ready') session.value = { ...session.value, models: list };
}

export interface Balance {
  available: boolean;
  currency: string;
  total: number;
  granted: number;
  toppedUp: number;
}

/** The balance of a key's account; undefined where the server keeps no accounts. */
export async function balance(key: string): Promise<Balance | undefined> {
  try {
    const answer = await json('/user/balance', { key });
    const info = answer.balance_infos?.[0] ?? {};
    const amount = (value: unknown) => Number(value) || 0;
    return {
      available: answer.is_available === true,
      currency: String(info.currency ?? ''),
      total: amount(info.total_balance),
      granted: amount(info.granted_balance),
      toppedUp: amount(info.topped_up_balance),
    };
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    throw error;
  }
}
