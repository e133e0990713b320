// What is shown, by the part of the address behind #, which no server sees.
import { Cell } from './cell';

export type Tab = 'load' | 'keys' | 'accounts' | 'invitations' | 'usage' | 'prices' | 'models';
export const TABS: Tab[] = ['load', 'models', 'keys', 'accounts', 'invitations', 'usage', 'prices'];

export type View = { name: 'chat'; conversation?: string } | { name: 'account' } | { name: 'operator'; tab: Tab };

/** The code of an invitation that the page was opened with. */
export const invited = new Cell('');

function parse(hash: string): View {
  const [name, rest = ''] = hash.replace(/^#\/?/, '').split('/', 2);
  if (name === 'c' && /^[0-9a-f]{1,64}$/.test(rest)) return { name: 'chat', conversation: rest };
  if (name === 'account') return { name: 'account' };
  if (name === 'operator') return { name: 'operator', tab: TABS.find((tab) => tab === rest) ?? 'load' };
  if (name === 'invite' && /^[\x21-\x7e]{1,200}$/.test(rest)) {
    invited.value = rest;
    // A code is a secret: it does not stay in the address or the history.
    history.replaceState(null, '', '#/');
  }
  return { name: 'chat' };
}

export const view = new Cell<View>(parse(location.hash));

addEventListener('hashchange', () => (view.value = parse(location.hash)));

export function go(to: string) {
  if (location.hash !== `#/${to}`) location.hash = `#/${to}`;
}
