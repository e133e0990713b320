// A value that components show and that changes outside of them.
import { useLayoutEffect, useState } from 'preact/hooks';

export class Cell<T> {
  #value: T;
  #readers = new Set<() => void>();

  constructor(value: T) {
    this.#value = value;
  }

  get value(): T {
    return this.#value;
  }

  set value(value: T) {
    this.#value = value;
    for (const read of [...this.#readers]) read();
  }

  watch(read: () => void): () => void {
    this.#readers.add(read);
    return () => this.#readers.delete(read);
  }

  /** The value, in a component that is rendered again when it changes. */
  use(): T {
    const [, render] = useState({});
    const shown = this.#value;
    useLayoutEffect(() => {
      // It may have changed since it was rendered.
      if (this.#value !== shown) render({});
      return this.watch(() => render({}));
    }, [this]);
    return shown;
  }
}
