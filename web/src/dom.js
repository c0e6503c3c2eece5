// Small helpers around the document.

export const byId = (id) => document.getElementById(id);

/** A new element with the given properties. */
export function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

const SVG = 'http://www.w3.org/2000/svg';

/** A picture from the page's own set of symbols; `label` is read to those who do not see it. */
export function icon(name, label) {
  const svg = document.createElementNS(SVG, 'svg');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `#icon-${name}`);
  svg.setAttribute('class', 'icon');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', label);
  svg.append(use);
  return svg;
}

/** One or two letters that stand for a name. */
export function initials(name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const letters = [words[0], words.length > 1 ? words.at(-1) : ''].map((word) => [...(word ?? '')][0] ?? '');
  return letters.join('').toUpperCase() || '?';
}

/** A hue (0–359) that is always the same for a name. */
export function hueOf(name) {
  let hash = 7;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) % 9973;
  return hash % 360;
}
