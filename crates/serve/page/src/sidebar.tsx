// The list of conversations, and the ways to the other views.
import { useRef, useState } from 'preact/hooks';
import { addAll, all, current, loaded, open, remove, running, start } from './chats';
import { changed } from './chats';
import { type Conversation, FILE_BYTES_MAX, FileError, exported, imported } from './conversation';
import { Dialog, Field, ask } from './dialog';
import { download } from './download';
import { Coin, Dots, Plus } from './icons';
import { type View, go } from './route';
import { session } from './session';
import { t } from './texts';

function Renaming({ conversation, onClose }: { conversation: Conversation; onClose: () => void }) {
  const [title, setTitle] = useState(conversation.title);
  return (
    <Dialog title={t('rename')} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (title.trim()) changed(Object.assign(conversation, { title: title.trim().slice(0, 200), named: true }), true);
          onClose();
        }}
      >
        <Field label={t('name')}>{(field) => <input {...field} maxLength={200} value={title} onInput={(event) => setTitle(event.currentTarget.value)} />}</Field>
        <div class="buttons">
          <button type="button" onClick={onClose}>
            {t('cancel')}
          </button>
          <button type="submit" class="primary">
            {t('save')}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function Row({ conversation, shown, onShow, onRename }: { conversation: Conversation; shown: boolean; onShow: () => void; onRename: () => void }) {
  const menu = useRef<HTMLDetailsElement>(null);
  const title = conversation.title || t('untitled');
  const away = (act: () => void) => () => {
    menu.current!.open = false;
    act();
  };
  const removeIt = async () => {
    if (await ask(t('removeSure', { title }), t('remove'))) await remove(conversation.id);
  };
  return (
    <li class={shown ? 'row shown' : 'row'}>
      <button type="button" class="title" aria-current={shown ? 'page' : undefined} onClick={onShow}>
        {running.value.has(conversation.id) && <span class="dot" />}
        {title}
      </button>
      <details
        class="menu"
        ref={menu}
        onKeyDown={(event) => {
          if (event.key !== 'Escape' || !menu.current!.open) return;
          event.stopPropagation();
          menu.current!.open = false;
          menu.current!.querySelector('summary')?.focus();
        }}
        onFocusOut={(event) => {
          if (!menu.current!.contains(event.relatedTarget as Node | null)) menu.current!.open = false;
        }}
      >
        <summary aria-label={`${t('more')}: ${title}`}>
          <Dots />
        </summary>
        <div class="menu-items">
          <button type="button" onClick={away(onRename)}>
            {t('rename')}
          </button>
          <button type="button" onClick={away(() => download(`${fileName(title)}.json`, exported([conversation]), 'application/json'))}>
            {t('exportOne')}
          </button>
          <button type="button" onClick={away(() => void removeIt())}>
            {t('remove')}
          </button>
        </div>
      </details>
    </li>
  );
}

const fileName = (title: string) => title.replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').slice(0, 60) || 'conversation';

function Files({ onSaid }: { onSaid: (text: string) => void }) {
  const input = useRef<HTMLInputElement>(null);
  const conversations = all.use();
  const read = async (file: File | undefined) => {
    if (!file) return;
    try {
      if (file.size > FILE_BYTES_MAX) throw new FileError('importLarge');
      const found = imported(await file.text());
      await addAll(found);
      onSaid(t('importDone', { count: found.length }));
    } catch (error) {
      onSaid(t(error instanceof FileError ? error.reason : 'importDamaged'));
    }
    input.current!.value = '';
  };
  const removeAll = async () => {
    if (!(await ask(t('removeAllSure', { count: conversations.length }), t('removeAll')))) return;
    for (const one of all.value) await remove(one.id);
  };
  return (
    <div class="files">
      <button type="button" class="quiet small" onClick={() => input.current!.click()}>
        {t('importFile')}
      </button>
      <input ref={input} type="file" accept=".json,application/json" hidden onChange={(event) => void read(event.currentTarget.files?.[0])} />
      <button type="button" class="quiet small" disabled={conversations.length === 0} onClick={() => download('conversations.json', exported(all.value), 'application/json')}>
        {t('exportAll')}
      </button>
      <button type="button" class="quiet small" disabled={conversations.length === 0} onClick={() => void removeAll()}>
        {t('removeAll')}
      </button>
    </div>
  );
}

export function Sidebar({ view, onGone, onHelp }: { view: View; onGone: () => void; onHelp: () => void }) {
  const conversations = all.use();
  const shown = current.use();
  running.use();
  const { ledger } = session.use();
  const [searched, setSearched] = useState('');
  const [renaming, setRenaming] = useState<Conversation | undefined>(undefined);
  const [said, setSaid] = useState('');
  const words = searched.trim().toLowerCase();
  const fits = (one: Conversation) =>
    !words || one.title.toLowerCase().includes(words) || Object.values(one.messages).some((message) => message.text.toLowerCase().includes(words));
  const found = conversations.filter(fits).sort((a, b) => b.updated - a.updated);
  const leave = (to: string) => () => {
    go(to);
    onGone();
  };
  const place = (name: View['name']) => (view.name === name ? ('page' as const) : undefined);
  return (
    <>
      <div class="side-head">
        <Coin />
        <span class="name">Farthing</span>
      </div>
      <button
        type="button"
        class="new"
        onClick={() => {
          start();
          go('');
          onGone();
          requestAnimationFrame(() => document.getElementById('message')?.focus());
        }}
      >
        <Plus /> {t('newChat')}
      </button>
      <input type="search" aria-label={t('search')} placeholder={t('search')} value={searched} onInput={(event) => setSearched(event.currentTarget.value)} />
      <nav class="list" aria-label={t('conversations')}>
        {found.length > 0 ? (
          <ul>
            {found.map((one) => (
              <Row
                key={one.id}
                conversation={one}
                shown={view.name === 'chat' && one.id === shown.id}
                onShow={() => {
                  open(one.id);
                  go(`c/${one.id}`);
                  onGone();
                }}
                onRename={() => setRenaming(one)}
              />
            ))}
          </ul>
        ) : (
          loaded.value && <p class="hint">{t(words ? 'nothingFound' : 'noConversations')}</p>
        )}
      </nav>
      {said && (
        <p class="hint" role="status">
          {said}
        </p>
      )}
      <Files onSaid={setSaid} />
      <div class="places">
        {ledger && (
          <button type="button" class="quiet" aria-current={place('account')} onClick={leave('account')}>
            {t('account')}
          </button>
        )}
        <button type="button" class="quiet" aria-current={place('operator')} onClick={leave('operator/load')}>
          {t('operator')}
        </button>
        <button type="button" class="quiet" onClick={onHelp}>
          {t('help')}
        </button>
      </div>
      {renaming && <Renaming conversation={renaming} onClose={() => setRenaming(undefined)} />}
    </>
  );
}
