// Keys. A user's key is kept in the tab, or in the browser by choice; an operator's in memory, or in the tab by choice.
import { Cell } from './cell';

const USER = 'farthing.key';
const OPERATOR = 'farthing.operator';

function read(area: () => Storage, name: string): string {
  try {
    return area().getItem(name) ?? '';
  } catch {
    return '';
  }
}

function write(area: () => Storage, name: string, value: string) {
  try {
    if (value) area().setItem(name, value);
    else area().removeItem(name);
  } catch {
    // Storage that is off or full: the key lives in memory.
  }
}

const local = () => localStorage;
const session = () => sessionStorage;

export const userKey = new Cell(read(session, USER) || read(local, USER));
export const operatorKey = new Cell(read(session, OPERATOR));

export const userKeyIsKept = () => read(local, USER) !== '';

export function setUserKey(key: string, inBrowser: boolean) {
  write(session, USER, inBrowser ? '' : key);
  write(local, USER, inBrowser ? key : '');
  userKey.value = key;
}

export function setOperatorKey(key: string, inTab: boolean) {
  write(session, OPERATOR, inTab ? key : '');
  operatorKey.value = key;
}

/** Something that a header can carry. */
export const isKey = (text: string) => /^[\x21-\x7e]{1,512}$/.test(text);

/** A preference of this browser. */
export const preference = (name: string) => read(local, `farthing.${name}`);
export const prefer = (name: string, value: string) => write(local, `farthing.${name}`, value);
