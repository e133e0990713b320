// Dialogs: the browser's own, which keep the focus inside and close with Escape.
import type { ComponentChildren } from 'preact';
import { useEffect, useId, useRef, useState } from 'preact/hooks';
import { Cell } from './cell';
import { copy } from './copy';
import { say } from './announce';
import { Close } from './icons';
import { t } from './texts';

export function Dialog({ title, onClose, children, wide }: { title: string; onClose: () => void; children: ComponentChildren; wide?: boolean }) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    ref.current?.showModal();
    return () => before?.focus?.();
  }, []);
  return (
    <dialog
      ref={ref}
      class={wide ? 'wide-dialog' : undefined}
      aria-labelledby={id}
      onClose={onClose}
      onClick={(event) => event.target === ref.current && ref.current?.close()}
    >
      <div class="dialog-body">
        <header class="dialog-head">
          <h2 id={id}>{title}</h2>
          <button type="button" class="quiet icon" aria-label={t('close')} onClick={() => ref.current?.close()}>
            <Close />
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}

export interface Question {
  text: string;
  action: string;
  danger?: boolean;
  answer: (yes: boolean) => void;
}

/** A question that is asked now. */
export const question = new Cell<Question | undefined>(undefined);

export function ask(text: string, action: string, danger = true): Promise<boolean> {
  return new Promise((answer) => (question.value = { text, action, danger, answer }));
}

export function AskedQuestion() {
  const asked = question.use();
  if (!asked) return null;
  const answer = (yes: boolean) => {
    question.value = undefined;
    asked.answer(yes);
  };
  return (
    <Dialog title={asked.action} onClose={() => question.value === asked && answer(false)}>
      <p>{asked.text}</p>
      <div class="buttons">
        <button type="button" onClick={() => answer(false)}>
          {t('cancel')}
        </button>
        <button type="button" class={asked.danger ? 'danger' : 'primary'} onClick={() => answer(true)}>
          {asked.action}
        </button>
      </div>
    </Dialog>
  );
}

/** A button that copies a text and says so. */
export function CopyButton({ text, label, class: style = 'quiet' }: { text: () => string; label?: string; class?: string }) {
  const [copied, setCopied] = useState<boolean | undefined>(undefined);
  useEffect(() => {
    if (copied === undefined) return;
    const later = setTimeout(() => setCopied(undefined), 2000);
    return () => clearTimeout(later);
  }, [copied]);
  const press = async () => {
    const done = await copy(text());
    setCopied(done);
    say(t(done ? 'copied' : 'copyFailed'));
  };
  return (
    <button type="button" class={style} onClick={press}>
      {copied === undefined ? (label ?? t('copy')) : t(copied ? 'copied' : 'copyFailed')}
    </button>
  );
}

/** A secret that is shown once. */
export function Secret({ secret, label, hint }: { secret: string; label: string; hint?: string }) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <div class="with-button">
        <input id={id} class="mono" readOnly value={secret} onFocus={(event) => event.currentTarget.select()} />
        <CopyButton text={() => secret} class="" />
      </div>
      {hint && <p class="hint">{hint}</p>}
    </div>
  );
}

/** A text with commands in backticks. */
export const Prose = ({ text }: { text: string }) => <>{text.split('`').map((part, i) => (i % 2 === 1 ? <code key={i}>{part}</code> : part))}</>;

/** A labelled field with a hint or what is wrong with it. */
export function Field({ label, hint, problem, children }: { label: string; hint?: string; problem?: string; children: (props: { id: string; 'aria-describedby'?: string; 'aria-invalid'?: boolean }) => ComponentChildren }) {
  const id = useId();
  const about = problem || hint ? `${id}-about` : undefined;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({ id, 'aria-describedby': about, ...(problem && { 'aria-invalid': true }) })}
      {about && (
        <p id={about} class={problem ? 'problem' : 'hint'} role={problem ? 'alert' : undefined}>
          {problem || hint}
        </p>
      )}
    </div>
  );
}

export function Check({ label, hint, checked, onChange }: { label: string; hint?: string; checked: boolean; onChange: (checked: boolean) => void }) {
  const id = useId();
  return (
    <div class="check">
      <input id={id} type="checkbox" checked={checked} aria-describedby={hint ? `${id}-about` : undefined} onChange={(event) => onChange(event.currentTarget.checked)} />
      <div>
        <label for={id}>{label}</label>
        {hint && (
          <p id={`${id}-about`} class="hint">
            {hint}
          </p>
        )}
      </div>
    </div>
  );
}
