// Conversations in this browser's IndexedDB. Where that is full or not to be had, they stay in memory and the page says so.
import { Cell } from './cell';
import { type Conversation, merged, readConversation } from './conversation';

export type Storage = 'kept' | 'full' | 'none';

/** Whether what is written now is kept. */
export const storage = new Cell<Storage>('kept');

const NAME = 'farthing';
const VERSION = 1;
const STORE = 'conversations';

let opened: Promise<IDBDatabase | null> | undefined;

function open(): Promise<IDBDatabase | null> {
  opened ??= new Promise((resolve) => {
    const failed = () => {
      storage.value = 'none';
      resolve(null);
    };
    try {
      const request = indexedDB.open(NAME, VERSION);
      request.onupgradeneeded = () => {
        if (!request.result.objectStoreNames.contains(STORE)) request.result.createObjectStore(STORE, { keyPath: 'id' });
      };
      request.onerror = request.onblocked = failed;
      request.onsuccess = () => {
        // A newer page in another tab wants to change the layout.
        request.result.onversionchange = () => {
          request.result.close();
          opened = undefined;
        };
        resolve(request.result);
      };
    } catch {
      failed();
    }
  });
  return opened;
}

/** All conversations that can be read. */
export async function load(): Promise<Conversation[]> {
  const database = await open();
  if (!database) return [];
  const rows = await new Promise<unknown[]>((resolve) => {
    const request = database.transaction(STORE).objectStore(STORE).getAll();
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve([]);
  });
  const readable = (row: unknown) => {
    try {
      return [readConversation(row)];
    } catch {
      return [];
    }
  };
  return rows.flatMap(readable);
}

/** Writes a conversation, with the messages that another tab added meanwhile. */
export async function save(conversation: Conversation): Promise<Storage> {
  const database = await open();
  if (!database) return 'none';
  const state = await new Promise<Storage>((resolve) => {
    const transaction = database.transaction(STORE, 'readwrite');
    const store = transaction.objectStore(STORE);
    const old = store.get(conversation.id);
    old.onsuccess = () => {
      let whole = conversation;
      try {
        if (old.result) whole = merged(conversation, readConversation(old.result));
      } catch {
        // What is there cannot be read; this one can.
      }
      try {
        store.put(whole);
      } catch (error) {
        failed((error as DOMException).name);
        transaction.abort();
      }
    };
    const failed = (name?: string) => resolve(name === 'QuotaExceededError' ? 'full' : 'none');
    transaction.oncomplete = () => resolve('kept');
    transaction.onabort = () => failed(transaction.error?.name);
  });
  storage.value = state;
  if (state === 'kept') announce(conversation.id);
  return state;
}

export async function remove(id: string): Promise<void> {
  const database = await open();
  if (!database) return;
  await new Promise<void>((resolve) => {
    const transaction = database.transaction(STORE, 'readwrite');
    transaction.objectStore(STORE).delete(id);
    transaction.oncomplete = transaction.onabort = () => resolve();
  });
  announce(id);
}

const channel = 'BroadcastChannel' in window ? new BroadcastChannel('farthing.conversations') : undefined;

function announce(id: string) {
  channel?.postMessage(id);
}

/** Calls when another tab has written or removed a conversation. */
export function onChange(changed: (id: string) => void) {
  channel?.addEventListener('message', (event) => changed(String(event.data)));
}

export async function loadOne(id: string): Promise<Conversation | undefined> {
  return (await load()).find((conversation) => conversation.id === id);
}
