// Dark or light: as the system has it, or by choice.
import { Cell } from './cell';
import { prefer, preference } from './keys';

export type Theme = 'system' | 'light' | 'dark';

const chosen = preference('theme');

export const theme = new Cell<Theme>(chosen === 'light' || chosen === 'dark' ? chosen : 'system');

function apply() {
  if (theme.value === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
}

export function setTheme(to: Theme) {
  prefer('theme', to === 'system' ? '' : to);
  theme.value = to;
  apply();
}

apply();

/** Calls when colours change, by choice or with the system. */
export function onColours(changed: () => void): () => void {
  const system = matchMedia('(prefers-color-scheme: dark)');
  system.addEventListener('change', changed);
  const left = theme.watch(changed);
  return () => {
    system.removeEventListener('change', changed);
    left();
  };
}
