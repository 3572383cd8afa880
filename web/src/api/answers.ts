// Hooks: an answer of the service as a component's state. Numbers stay on the page while newer ones are on their way.

import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import { ask, pathOfNext } from "./client";
import type { Page } from "./shapes";

export interface Answer<T> {
  value: T | undefined;
  error: unknown;
  isLoading: boolean;
}

/** Counts refreshes: every answer is asked for again when it changes. */
export const Round = createContext(0);

interface Held<T> {
  key: string;
  value: T | undefined;
  error: unknown;
}

/** The answer at this path; null: there is nothing to ask. What is urgent is asked before all that waits. */
export function useAnswer<T>(path: string | null, isUrgent = false): Answer<T> {
  const round = useContext(Round);
  const key = `${round} ${path}`;
  const [held, hold] = useState<Held<T>>({ key: "", value: undefined, error: undefined });
  useEffect(() => {
    if (path === null) return;
    let isWanted = true;
    ask<T>(path, isUrgent).then(
      (value) => isWanted && hold({ key, value, error: undefined }),
      (error) => isWanted && hold({ key, value: undefined, error }),
    );
    return () => {
      isWanted = false;
    };
  }, [path, key]);
  if (path === null) return { value: undefined, error: undefined, isLoading: false };
  return { value: held.value, error: held.key === key ? held.error : undefined, isLoading: held.key !== key };
}

/** Several answers at once, in the order of their paths. */
export function useAnswers<T>(paths: string[]): Answer<T[]> {
  const round = useContext(Round);
  const key = [round, ...paths].join(" ");
  const [held, hold] = useState<Held<T[]>>({ key: "", value: undefined, error: undefined });
  useEffect(() => {
    let isWanted = true;
    Promise.all(paths.map((path) => ask<T>(path))).then(
      (value) => isWanted && hold({ key, value, error: undefined }),
      (error) => isWanted && hold({ key, value: undefined, error }),
    );
    return () => {
      isWanted = false;
    };
  }, [key]);
  return { value: held.value, error: held.key === key ? held.error : undefined, isLoading: held.key !== key };
}

export interface Pages<T, P> extends Answer<P> {
  items: T[];
  /** Asks for the next page; undefined: there is none. */
  more: (() => void) | undefined;
  moreError: unknown;
}

/** The first page at this path, and those after it, one for each call of `more`. */
export function usePages<T, P extends Page<T> = Page<T>>(path: string | null): Pages<T, P> {
  const first = useAnswer<P>(path);
  const [further, setFurther] = useState<{ of: P | undefined; pages: P[]; error: unknown }>(nothing);
  const pages = first.value && further.of === first.value ? further.pages : [];
  const next = (pages.at(-1) ?? first.value)?.next;
  const more = () => {
    ask<P>(pathOfNext(next as string)).then(
      (page) => setFurther({ of: first.value, pages: [...pages, page], error: undefined }),
      (error) => setFurther({ of: first.value, pages, error }),
    );
  };
  const items = [first.value, ...pages].flatMap((page) => page?.items ?? []);
  return { ...first, items, more: next ? more : undefined, moreError: further.error };
}

const nothing = { of: undefined, pages: [], error: undefined };
