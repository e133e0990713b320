// What screen readers are told when something happens elsewhere on the page.

let region: HTMLElement | undefined;

export function setRegion(element: HTMLElement | null) {
  region = element ?? undefined;
}

/** Says a text politely, after what is being read. */
export function say(text: string) {
  if (!region) return;
  region.textContent = '';
  requestAnimationFrame(() => region && (region.textContent = text.length > 600 ? `${text.slice(0, 600)}…` : text));
}
