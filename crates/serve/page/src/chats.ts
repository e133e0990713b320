// The conversations of this browser, the one that is shown, and the answers that are being written.
import { say } from './announce';
import { ApiError, type Usage, chat } from './api';
import { Cell } from './cell';
import { type Conversation, type Message, add, newConversation, path, prompt, update, withPart } from './conversation';
import { userKey } from './keys';
import { chosenModel, modelOf, refreshModels, session } from './session';
import * as store from './store';
import { t } from './texts';

export const all = new Cell<Conversation[]>([]);
export const loaded = new Cell(false);
/** The conversation that is shown. One without messages is in no list and is not kept. */
export const current = new Cell<Conversation>(newConversation(chosenModel.value));
/** Answers that are being written, by the conversation's id. */
export const running = new Cell<Map<string, AbortController>>(new Map());
/** Why the last request of a conversation was refused. */
export const refusals = new Cell<Map<string, { error: ApiError; at: number }>>(new Map());

const saves = new Map<string, number>();
/** Conversations that could not be written: they are tried again when there may be room. */
const unsaved = new Set<string>();
const SAVE_MS = 1000;

function show(conversation: Conversation) {
  const there = all.value.some((one) => one.id === conversation.id);
  const changed = { ...conversation };
  if (there) all.value = all.value.map((one) => (one.id === changed.id ? changed : one));
  else if (Object.keys(changed.messages).length > 0) all.value = [changed, ...all.value];
  if (current.value.id === changed.id) current.value = changed;
}

async function save(id: string) {
  const conversation = latest(id);
  if (!conversation || Object.keys(conversation.messages).length === 0) return;
  if ((await store.save(conversation)) === 'kept') unsaved.delete(id);
  else unsaved.add(id);
}

/** Shows a change of a conversation, and writes it soon, or now. */
export function changed(conversation: Conversation, now = false) {
  show(conversation);
  if (Object.keys(conversation.messages).length === 0) return;
  const { id } = conversation;
  const write = () => {
    saves.delete(id);
    void save(id);
  };
  if (now) {
    clearTimeout(saves.get(id));
    write();
  } else if (!saves.has(id)) {
    saves.set(id, window.setTimeout(write, SAVE_MS));
  }
}

export async function loadAll() {
  const found = await store.load();
  const known = new Set(all.value.map((one) => one.id));
  all.value = [...all.value, ...found.filter((one) => !known.has(one.id))];
  loaded.value = true;
  store.onChange(async (id) => {
    if (running.value.has(id)) return;
    const theirs = await store.loadOne(id);
    if (theirs) show(theirs);
    else all.value = all.value.filter((one) => one.id !== id);
    if (theirs && !all.value.some((one) => one.id === id)) all.value = [theirs, ...all.value];
  });
  addEventListener('pagehide', () => {
    for (const id of [...saves.keys(), ...running.value.keys()]) void save(id);
  });
}

export function start() {
  current.value = newConversation(modelOf(chosenModel.value)?.id ?? '');
}

export function open(id: string): boolean {
  const found = all.value.find((one) => one.id === id);
  if (found && current.value.id !== id) current.value = found;
  return found !== undefined;
}

export async function remove(id: string) {
  stop(id);
  all.value = all.value.filter((one) => one.id !== id);
  clearTimeout(saves.get(id));
  saves.delete(id);
  if (current.value.id === id) start();
  unsaved.delete(id);
  await store.remove(id);
  for (const other of unsaved) await save(other);
}

/** Adds conversations of a file; one whose id is there gets another id. */
export async function addAll(conversations: Conversation[]) {
  for (const one of conversations) {
    const taken = all.value.some((known) => known.id === one.id);
    const added = taken ? { ...one, id: newConversation('').id } : one;
    all.value = [...all.value, added];
    await save(added.id);
  }
}

const latest = (id: string): Conversation | undefined =>
  all.value.find((one) => one.id === id) ?? (current.value.id === id ? current.value : undefined);

export function stop(id: string) {
  running.value.get(id)?.abort();
}

function setRefusal(id: string, error?: ApiError) {
  const refused = new Map(refusals.value);
  if (error) refused.set(id, { error, at: Date.now() });
  else refused.delete(id);
  refusals.value = refused;
}

/** Sends a message, below the last one that is shown or in place of another. */
export function send(text: string, inPlaceOf?: Message) {
  const conversation = current.value;
  const parent = inPlaceOf ? inPlaceOf.parent : (path(conversation).at(-1)?.id ?? '');
  const question = add(conversation, { parent, role: 'user', text });
  changed(conversation);
  void answer(conversation.id, question.id);
}

/** Shows one of several versions. */
export function choose(message: Message) {
  const conversation = current.value;
  conversation.chosen = { ...conversation.chosen, [message.parent]: message.id };
  changed(conversation);
}

/** Asks anew for an answer to a question, which makes a sibling of the answers that are there. */
export const regenerate = (question: string) => void answer(current.value.id, question);

/** Lets the model go on where an answer was cut. */
export const goOn = (cut: Message) => void answer(current.value.id, cut.parent, cut);

function upTo(conversation: Conversation, id: string): Message[] {
  const way: Message[] = [];
  for (let at: Message | undefined = conversation.messages[id]; at; at = conversation.messages[at.parent]) way.unshift(at);
  return way;
}

async function answer(id: string, question: string, cut?: Message) {
  const conversation = latest(id);
  if (!conversation || running.value.has(id)) return;
  const model = modelOf(conversation.model)?.id ?? '';
  const messages = prompt(conversation, upTo(conversation, cut ? cut.id : question));
  const body = { ...(model && { model }), messages, ...conversation.settings, ...(cut && { continue_final_message: true }) };
  const abort = new AbortController();
  running.value = new Map(running.value).set(id, abort);
  setRefusal(id);
  const message = cut ? update(conversation, cut.id, { finish: undefined }) : add(conversation, { parent: question, role: 'assistant', text: '', model });
  changed(conversation);
  say(t('writing'));
  await new Answer(id, message).read(body, abort.signal);
  const left = new Map(running.value);
  left.delete(id);
  running.value = left;
  if (session.value.models.find((known) => known.id === model)?.state !== 'ready') void refreshModels();
}

/** An answer that is being written. What comes is shown once for each frame of the screen, less often where that is slow. */
class Answer {
  #text: string;
  #reasoning: string;
  #finish: Message['finish'];
  #usage: Usage | undefined;
  /** Events with text, which are the tokens or a little fewer. */
  #seen = 0;
  /** The request was refused: it is no part of the answer. */
  #refused = false;
  #started = performance.now();
  #first = 0;
  #last = 0;
  #scheduled = false;
  #ended = false;

  constructor(
    readonly conversation: string,
    /** As it was before: empty, or an answer that is continued. */
    readonly message: Message,
  ) {
    this.#text = message.text;
    this.#reasoning = message.reasoning ?? '';
  }

  async read(body: object, signal: AbortSignal) {
    try {
      for await (const piece of chat(body, userKey.value, signal)) {
        this.#text += piece.text;
        this.#reasoning += piece.reasoning;
        if (piece.text || piece.reasoning) {
          this.#seen++;
          this.#last = performance.now();
          this.#first ||= this.#last;
        }
        if (piece.finish) this.#finish = piece.finish === 'length' ? 'length' : 'stop';
        if (piece.usage) this.#usage = piece.usage;
        this.#schedule();
      }
      this.#finish ??= 'stop';
    } catch (error) {
      if (signal.aborted) this.#finish = 'stopped';
      else this.#failed(error instanceof ApiError ? error : new ApiError(0, '', String(error)));
    }
    this.#ended = true;
    this.#write(true);
    say(this.#finish === 'error' ? t('errorTitle') : t('finished', { text: this.#text }));
  }

  #failed(error: ApiError) {
    const nothing = this.#text === '' && this.#reasoning === '';
    this.#finish = nothing || error.code !== 'lost' ? 'error' : 'lost';
    this.#refused = this.#seen === 0 && error.code !== 'lost';
    if (this.#finish === 'lost') return;
    setRefusal(this.conversation, error);
    if (error.status === 401 && userKey.value !== '') session.value = { ...session.value, state: 'needsKey', problem: 'wrong' };
  }

  #figures(): Partial<Message> {
    const first = this.#first || performance.now();
    const times = { firstMs: Math.round(first - this.#started), decodeMs: Math.round((this.#last || first) - first) };
    return withPart(this.message, { usage: this.#usage, seen: this.#seen, ...times });
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const write = () => {
      this.#scheduled = false;
      if (this.#ended) return;
      const before = performance.now();
      this.#write(false);
      setTimeout(() => (pause = Math.min(500, (performance.now() - before) * 2)));
    };
    // A tab in the background has no frames.
    if (document.hidden) setTimeout(write, 250);
    else if (pause > 16) setTimeout(write, pause);
    else requestAnimationFrame(write);
  }

  #write(end: boolean) {
    const conversation = latest(this.conversation);
    if (!conversation || !Object.hasOwn(conversation.messages, this.message.id)) return;
    const empty = end && this.#finish === 'error' && this.#text === '' && this.#reasoning === '';
    if (empty) {
      // Nothing came: the question stands alone, and the refusal below it.
      const { [this.message.id]: _, ...messages } = conversation.messages;
      const { [this.message.parent]: __, ...chosen } = conversation.chosen;
      Object.assign(conversation, { messages, chosen });
    } else {
      update(conversation, this.message.id, {
        text: this.#text,
        ...(this.#reasoning && { reasoning: this.#reasoning }),
        ...(!this.#refused && this.#figures()),
        ...(end && { finish: this.#finish }),
      });
    }
    changed(conversation, end);
  }
}

/** Milliseconds between two renderings of an answer, by what the last one took. */
let pause = 0;
