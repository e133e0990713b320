// Copying of text, and a button for it.
import { say } from './announce';
import { t } from './texts';

/** Copies a text; without TLS browsers have only the old way. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    area.setAttribute('readonly', '');
    area.className = 'offscreen';
    const dialog = document.querySelector('dialog[open]');
    (dialog ?? document.body).append(area);
    const before = document.activeElement as HTMLElement | null;
    area.select();
    const copied = document.execCommand('copy');
    area.remove();
    before?.focus();
    return copied;
  }
}

/** A button of a block of code. */
export function copyButton(text: () => string): HTMLButtonElement {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'quiet small';
  button.textContent = t('copy');
  button.addEventListener('click', async () => {
    const copied = await copy(text());
    button.textContent = t(copied ? 'copied' : 'copyFailed');
    say(button.textContent);
    setTimeout(() => (button.textContent = t('copy')), 2000);
  });
  return button;
}
