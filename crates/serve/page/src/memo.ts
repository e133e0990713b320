// A component that is rendered again only when its properties change.
import { Component, type ComponentType, type FunctionComponent, createElement } from 'preact';

function sameFields(a: object, b: object): boolean {
  const [of, to] = [a as Record<string, unknown>, b as Record<string, unknown>];
  const names = Object.keys(of);
  return names.length === Object.keys(to).length && names.every((name) => of[name] === to[name]);
}

export function memo<P extends object>(Inner: FunctionComponent<P>, same: (a: P, b: P) => boolean = sameFields): ComponentType<P> {
  return class extends Component<P> {
    shouldComponentUpdate(next: P) {
      return !same(this.props as P, next);
    }
    render() {
      return createElement(Inner, this.props as P);
    }
  };
}
