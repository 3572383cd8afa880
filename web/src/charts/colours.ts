// The colours of series. They are told apart by lightness as well as by hue, and stand in style.css for both themes.

import { useEffect, useState } from "preact/hooks";

export const SHADES = 8;
export const OTHERS = "others";

/** The class of a series' swatch; its colour is the custom property of the same name. */
export type Shade = `shade-${number}` | typeof OTHERS;

export const shadeOf = (place: number): Shade => `shade-${(place % SHADES) + 1}`;

export const colourOf = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Changes with the theme of the system, so that charts are drawn anew. */
export function useTheme(): boolean {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const [isDark, setDark] = useState(dark.matches);
  useEffect(() => {
    const update = () => setDark(dark.matches);
    dark.addEventListener("change", update);
    return () => dark.removeEventListener("change", update);
  }, []);
  return isDark;
}
