// The mark, and icons; what they mean is said by the label of what they stand in.
import type { ComponentChildren } from 'preact';

const Icon = ({ children }: { children: ComponentChildren }) => (
  <svg viewBox="0 0 20 20" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
    {children}
  </svg>
);

export const Coin = ({ size = 28 }: { size?: number }) => (
  <svg viewBox="0 0 32 32" width={size} height={size} aria-hidden="true" class="coin">
    <circle cx="16" cy="16" r="15" fill="#b0713a" />
    <circle cx="16" cy="16" r="12.4" fill="none" stroke="#f6e3cd" stroke-width="1.3" stroke-dasharray="1.2 1.4" />
    <path d="M12 24V9h9.2M12 16.4h7" fill="none" stroke="#fff6ea" stroke-width="3" stroke-linecap="round" stroke-linejoin="round" />
  </svg>
);

export const Menu = () => <Icon><path d="M3 5.5h14M3 10h14M3 14.5h14" /></Icon>;
export const Plus = () => <Icon><path d="M10 4v12M4 10h12" /></Icon>;
export const Close = () => <Icon><path d="m5 5 10 10M15 5 5 15" /></Icon>;
export const Up = () => <Icon><path d="M10 16V4M5 9l5-5 5 5" /></Icon>;
export const Down = () => <Icon><path d="M10 4v12M5 11l5 5 5-5" /></Icon>;
export const Square = () => <Icon><rect x="5" y="5" width="10" height="10" rx="1.5" fill="currentColor" /></Icon>;
export const Left = () => <Icon><path d="m12.5 4.5-5.5 5.5 5.5 5.5" /></Icon>;
export const Right = () => <Icon><path d="m7.5 4.5 5.5 5.5-5.5 5.5" /></Icon>;
export const Sliders = () => <Icon><path d="M3 6h7M14 6h3M3 14h3M10 14h7" /><circle cx="12" cy="6" r="2" /><circle cx="8" cy="14" r="2" /></Icon>;
export const Dots = () => <Icon><path d="M4.5 10h.01M10 10h.01M15.5 10h.01" stroke-width="2.6" /></Icon>;
