// The page: the list of conversations beside what is shown, and the keyboard.
import { render } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import './style.css';
import { Account } from './account';
import { setRegion } from './announce';
import { Chat, ChatTools } from './chat';
import { current, loadAll, loaded, open, start, stop } from './chats';
import { AskedQuestion } from './dialog';
import { Close, Menu } from './icons';
import { Operator } from './operator/view';
import { go, view } from './route';
import { connect, session } from './session';
import { HelpDialog, SettingsDialog } from './settings';
import { Sidebar } from './sidebar';
import { SignIn } from './signin';
import { storage } from './store';
import { language, t } from './texts';

function StorageBanner() {
  const state = storage.use();
  if (state === 'kept') return null;
  return (
    <p class="banner" role="alert">
      {t(state === 'full' ? 'storageFull' : 'storageNone')}
    </p>
  );
}

/** Keys that work everywhere but in fields and dialogs. */
function useKeyboard(onHelp: () => void) {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (document.querySelector('dialog[open]')) return;
      if (event.key === 'Escape') {
        stop(current.value.id);
        return;
      }
      const target = event.target as HTMLElement;
      if (target.matches('input, textarea, select, [contenteditable]')) return;
      const act = {
        '/': () => (go(''), requestAnimationFrame(() => document.getElementById('message')?.focus())),
        n: () => (start(), go(''), requestAnimationFrame(() => document.getElementById('message')?.focus())),
        '?': onHelp,
      }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    };
    addEventListener('keydown', press);
    return () => removeEventListener('keydown', press);
  }, []);
}

/** The list as a drawer, on narrow screens: it takes the focus, and Escape closes it. */
function useDrawer(open: boolean, onClose: () => void) {
  useEffect(() => {
    if (!open) return;
    document.querySelector<HTMLElement>('.close-side')?.focus();
    const close = (event: KeyboardEvent) => {
      if (event.key !== 'Escape' || event.defaultPrevented || document.querySelector('dialog[open]')) return;
      event.preventDefault();
      onClose();
      document.getElementById('open-side')?.focus();
    };
    addEventListener('keydown', close, true);
    return () => removeEventListener('keydown', close, true);
  }, [open]);
}

function Shown() {
  const shown = view.use();
  const { state } = session.use();
  const all = loaded.use();
  useEffect(() => {
    if (shown.name === 'chat' && shown.conversation && all && !open(shown.conversation)) go('');
  }, [shown, all]);
  if (shown.name === 'operator') return <Operator tab={shown.tab} />;
  if (state === 'needsKey') return <SignIn />;
  if (shown.name === 'account') return <Account />;
  return <Chat />;
}

function Page() {
  const lang = language.use();
  const shown = view.use();
  const conversation = current.use();
  const { state } = session.use();
  const [drawer, setDrawer] = useState(false);
  const [dialog, setDialog] = useState<'settings' | 'help' | undefined>(undefined);
  // A dialog says that it is closed some time later: another may be open by then.
  const close = (one: typeof dialog) => setDialog((shown) => (shown === one ? undefined : shown));
  useKeyboard(() => setDialog('help'));
  useDrawer(drawer, () => setDrawer(false));
  useEffect(() => {
    document.documentElement.lang = lang === 'zh' ? 'zh-CN' : 'en';
  }, [lang]);
  const chatting = shown.name === 'chat' && state !== 'needsKey';
  const title = shown.name === 'operator' ? t('operatorView') : shown.name === 'account' ? t('account') : conversation.title;
  useEffect(() => {
    document.title = title ? `${title} · Farthing` : 'Farthing';
  }, [title]);
  // A conversation gets its address with its first message, so that a reload shows it again.
  const begun = Object.keys(conversation.messages).length > 0;
  useEffect(() => {
    if (view.value.name === 'chat' && begun && view.value.conversation !== conversation.id) go(`c/${conversation.id}`);
  }, [begun, conversation.id]);
  return (
    <>
      {chatting && (
        <a
          class="skip"
          href="#message"
          onClick={(event) => {
            event.preventDefault();
            document.getElementById('message')?.focus();
          }}
        >
          {t('skip')}
        </a>
      )}
      <aside class={drawer ? 'side open' : 'side'} aria-label={t('conversations')}>
        <button type="button" class="quiet icon close-side" aria-label={t('close')} onClick={() => setDrawer(false)}>
          <Close />
        </button>
        <Sidebar view={shown} onGone={() => setDrawer(false)} onHelp={() => setDialog('help')} />
      </aside>
      {drawer && <div class="shade" onClick={() => setDrawer(false)} />}
      <main>
        <header class={chatting ? 'top chatting' : 'top'}>
          <button
            id="open-side"
            type="button"
            class="quiet icon open-side"
            aria-label={t('open')}
            aria-expanded={drawer}
            onClick={() => setDrawer(true)}
          >
            <Menu />
          </button>
          <h1>{title || 'Farthing'}</h1>
          {chatting && <ChatTools onSettings={() => setDialog('settings')} />}
        </header>
        <StorageBanner />
        <Shown />
      </main>
      <div class="offscreen" role="status" aria-live="polite" ref={setRegion} />
      {dialog === 'settings' && <SettingsDialog onClose={() => close('settings')} />}
      {dialog === 'help' && <HelpDialog onClose={() => close('help')} />}
      <AskedQuestion />
    </>
  );
}

void connect();
void loadAll();
render(<Page />, document.getElementById('app')!);
