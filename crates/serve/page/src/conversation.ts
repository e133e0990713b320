// Conversations: trees of messages, of which one path is shown. Editing and asking again make siblings.
import type { Usage } from './api';

export type Finish = 'stop' | 'length' | 'stopped' | 'lost' | 'error';

export interface Message {
  id: string;
  parent: string;
  role: 'user' | 'assistant';
  text: string;
  reasoning?: string;
  at: number;
  model?: string;
  /** Sums of the parts that the server gave figures of. */
  usage?: Usage;
  /** Requests whose answers follow each other in the text: one, and one more for each time that it was continued. */
  parts?: number;
  /** Tokens that came, about, of parts that the server gave no figures of: who leaves gets none. */
  seen?: number;
  /** Milliseconds to the first token, and of all parts from their first token to their last. */
  firstMs?: number;
  decodeMs?: number;
  /** None: it is being written, or the page was closed meanwhile. */
  finish?: Finish;
}

/** Fields of a request; what is undefined is left to the server. */
export interface Settings {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  max_tokens?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  seed?: number;
}

export interface Conversation {
  id: string;
  title: string;
  /** The title was given by hand. */
  named: boolean;
  created: number;
  updated: number;
  model: string;
  system: string;
  settings: Settings;
  messages: Record<string, Message>;
  /** Which of several messages with one parent is shown; the first ones have the parent ''. */
  chosen: Record<string, string>;
}

/** Ranges of the settings, as the server has them. */
export const RANGES: Record<keyof Settings, { min: number; max: number; step: number }> = {
  temperature: { min: 0, max: 2, step: 0.05 },
  top_p: { min: 0, max: 1, step: 0.01 },
  top_k: { min: 0, max: 1_000_000, step: 1 },
  min_p: { min: 0, max: 1, step: 0.01 },
  max_tokens: { min: 1, max: 10_000_000, step: 1 },
  presence_penalty: { min: -2, max: 2, step: 0.1 },
  frequency_penalty: { min: -2, max: 2, step: 0.1 },
  seed: { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
};

export const newId = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
};

export function newConversation(model: string, from?: Conversation): Conversation {
  const now = Date.now();
  return {
    id: newId(),
    title: '',
    named: false,
    created: now,
    updated: now,
    model,
    system: from?.system ?? '',
    settings: { ...from?.settings },
    messages: {},
    chosen: {},
  };
}

/** Messages with one parent, oldest first. */
export function siblings(conversation: Conversation, parent: string): Message[] {
  const all = Object.values(conversation.messages).filter((message) => message.parent === parent);
  return all.sort((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1));
}

/** The messages that are shown. */
export function path(conversation: Conversation): Message[] {
  const children = new Map<string, Message[]>();
  for (const message of Object.values(conversation.messages)) {
    children.set(message.parent, [...(children.get(message.parent) ?? []), message]);
  }
  const shown: Message[] = [];
  for (let parent = ''; ; parent = shown[shown.length - 1].id) {
    const all = children.get(parent);
    if (!all) return shown;
    const last = all.reduce((a, b) => (b.at > a.at || (b.at === a.at && b.id > a.id) ? b : a));
    shown.push(all.find((message) => message.id === conversation.chosen[parent]) ?? last);
  }
}

/** Adds a message below another and shows it. */
export function add(conversation: Conversation, message: Omit<Message, 'id' | 'at'>): Message {
  const before = siblings(conversation, message.parent).at(-1)?.at ?? 0;
  const added = { ...message, id: newId(), at: Math.max(Date.now(), before + 1) };
  conversation.messages = { ...conversation.messages, [added.id]: added };
  conversation.chosen = { ...conversation.chosen, [added.parent]: added.id };
  conversation.updated = Date.now();
  if (!conversation.named && !conversation.title && added.role === 'user') conversation.title = titleOf(added.text);
  return added;
}

export function update(conversation: Conversation, id: string, change: Partial<Message>): Message {
  const message = { ...conversation.messages[id], ...change };
  conversation.messages = { ...conversation.messages, [id]: message };
  conversation.updated = Date.now();
  return message;
}

/** A message's figures with those of one more part: `usage` of the server, or else the tokens that were `seen`. */
export function withPart(before: Message, part: { usage?: Usage; seen: number; firstMs: number; decodeMs: number }): Partial<Message> {
  const old = before.usage;
  // Of an answer that was stopped before the page counted parts nothing is known.
  const anew = before.text === '' && before.parts === undefined;
  const seen = before.seen ?? (old || anew ? undefined : 0);
  return {
    usage: old && part.usage ? sum(old, part.usage) : (part.usage ?? old),
    parts: (before.parts ?? (anew ? 0 : 1)) + 1,
    seen: part.usage ? seen : (seen ?? 0) + part.seen,
    firstMs: before.firstMs ?? part.firstMs,
    decodeMs: (before.decodeMs ?? 0) + part.decodeMs,
  };
}

function sum(a: Usage, b: Usage): Usage {
  const cost = a.cost === undefined && b.cost === undefined ? {} : { cost: (a.cost ?? 0) + (b.cost ?? 0) };
  return { prompt: a.prompt + b.prompt, cached: a.cached + b.cached, output: a.output + b.output, reasoning: a.reasoning + b.reasoning, ...cost };
}

function titleOf(text: string): string {
  const line = text.trim().split('\n')[0].trim();
  const characters = [...line];
  return characters.length > 60 ? `${characters.slice(0, 59).join('')}…` : line;
}

/** Messages for the API: the system prompt, then those up to one, without what a model thought. */
export function prompt(conversation: Conversation, upTo: Message[]): { role: string; content: string }[] {
  const system = conversation.system.trim() ? [{ role: 'system', content: conversation.system }] : [];
  return [...system, ...upTo.map(({ role, text }) => ({ role: role as string, content: text }))];
}

/** Two states of one conversation, of two tabs: all messages of both; where both have one, that of `ours`. */
export function merged(ours: Conversation, theirs: Conversation): Conversation {
  return { ...ours, messages: { ...theirs.messages, ...ours.messages }, chosen: { ...theirs.chosen, ...ours.chosen } };
}

// Files: what is read was perhaps written by somebody else.

export const FILE_BYTES_MAX = 64 * 1024 * 1024;
const CONVERSATIONS_MAX = 5000;
const MESSAGES_MAX = 20_000;
const TEXT_MAX = 4 * 1024 * 1024;
const FORMAT = 'farthing-conversations';

export function exported(conversations: Conversation[]): string {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/** Why a file could not be read, as the name of a text. */
export class FileError extends Error {
  constructor(readonly reason: 'importNoJson' | 'importOther' | 'importNewer' | 'importDamaged' | 'importLarge') {
    super(reason);
  }
}

const damaged = () => new FileError('importDamaged');
const record = (value: unknown): Record<string, unknown> => {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw damaged();
  return value as Record<string, unknown>;
};
const text = (value: unknown, most = TEXT_MAX): string => {
  if (typeof value !== 'string' || value.length > most) throw damaged();
  return value;
};
const id = (value: unknown): string => {
  if (typeof value !== 'string' || !/^[0-9a-f]{1,64}$/.test(value)) throw damaged();
  return value;
};
const count = (value: unknown): number => {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0 || value > Number.MAX_SAFE_INTEGER) throw damaged();
  return value;
};
const maybe = <T>(value: unknown, read: (value: unknown) => T): T | undefined => (value === undefined || value === null ? undefined : read(value));
const oneOf = <T extends string>(value: unknown, all: readonly T[]): T => {
  const found = all.find((one) => one === value);
  if (found === undefined) throw damaged();
  return found;
};

function readUsage(value: unknown): Usage {
  const given = record(value);
  const cost = maybe(given.cost, count);
  const usage = { prompt: count(given.prompt), cached: count(given.cached), output: count(given.output), reasoning: count(given.reasoning) };
  return cost === undefined ? usage : { ...usage, cost };
}

function readMessage(value: unknown): Message {
  const given = record(value);
  const message: Message = {
    id: id(given.id),
    parent: given.parent === '' ? '' : id(given.parent),
    role: oneOf(given.role, ['user', 'assistant'] as const),
    text: text(given.text),
    reasoning: maybe(given.reasoning, text),
    at: count(given.at),
    model: maybe(given.model, (model) => text(model, 500)),
    usage: maybe(given.usage, readUsage),
    parts: maybe(given.parts, count),
    seen: maybe(given.seen, count),
    firstMs: maybe(given.firstMs, count),
    decodeMs: maybe(given.decodeMs, count),
    finish: maybe(given.finish, (finish) => oneOf(finish, ['stop', 'length', 'stopped', 'lost', 'error'] as const)),
  };
  return Object.fromEntries(Object.entries(message).filter(([, field]) => field !== undefined)) as unknown as Message;
}

export function readSettings(value: unknown): Settings {
  const given = record(value ?? {});
  const settings: Settings = {};
  for (const [name, range] of Object.entries(RANGES) as [keyof Settings, { min: number; max: number }][]) {
    const number = given[name];
    if (typeof number === 'number' && number >= range.min && number <= range.max) settings[name] = number;
  }
  return settings;
}

/** Every message has a parent that is there, and none is its own ancestor. */
function checkTree(messages: Record<string, Message>) {
  const whole = new Set<string>(['']);
  for (const message of Object.values(messages)) {
    const way = new Set<string>();
    for (let at = message.id; !whole.has(at); at = messages[at].parent) {
      if (way.has(at) || !Object.hasOwn(messages, at)) throw damaged();
      way.add(at);
    }
    for (const at of way) whole.add(at);
  }
}

export function readConversation(value: unknown): Conversation {
  const given = record(value);
  const listed = Object.values(record(given.messages));
  if (listed.length > MESSAGES_MAX) throw damaged();
  const messages: Record<string, Message> = {};
  for (const one of listed.map(readMessage)) messages[one.id] = one;
  checkTree(messages);
  const chosen: Record<string, string> = {};
  for (const [parent, child] of Object.entries(record(given.chosen ?? {}))) {
    const known = typeof child === 'string' && Object.hasOwn(messages, child) && messages[child].parent === parent;
    if (known) chosen[parent] = child;
  }
  return {
    id: id(given.id),
    title: text(given.title ?? '', 1000),
    named: given.named === true,
    created: count(given.created),
    updated: count(given.updated),
    model: text(given.model ?? '', 500),
    system: text(given.system ?? ''),
    settings: readSettings(given.settings),
    messages,
    chosen,
  };
}

/** Reads a file of conversations; all of it or nothing. */
export function imported(content: string): Conversation[] {
  if (content.length > FILE_BYTES_MAX) throw new FileError('importLarge');
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch {
    throw new FileError('importNoJson');
  }
  const file = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  if (file.format !== FORMAT || typeof file.version !== 'number') throw new FileError('importOther');
  if (file.version > 1) throw new FileError('importNewer');
  if (!Array.isArray(file.conversations) || file.conversations.length > CONVERSATIONS_MAX) throw damaged();
  return file.conversations.map(readConversation);
}
