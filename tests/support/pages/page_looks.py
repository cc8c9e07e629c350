"""What is looked at in a page by the browser that shows it."""

from __future__ import annotations

# Texts with less contrast than WCAG 2 asks for (AA, of small letters): [what, ratio].
CONTRAST = """
() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const found = [];
  for (const node of document.querySelectorAll('body *')) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!text || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    let ground = node;
    while (ground && rgb(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
    const behind = rgb(getComputedStyle(ground ?? document.body).backgroundColor);
    const ink = node.closest('svg') ? getComputedStyle(node).fill : getComputedStyle(node).color;
    const [a, b] = [light(rgb(ink)), light(behind)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const name = `${node.getAttribute('class') || node.tagName} ${node.textContent.trim().slice(0, 20)}`;
    if (ratio < 4.5) found.push(`${name} ${ratio.toFixed(2)}`);
  }
  return found;
}
"""

# What is wider than the window, or can be scrolled to the side without being reached by the keyboard.
TOO_WIDE = """
() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (node) => ['auto', 'scroll'].includes(getComputedStyle(node).overflowX);
  const held = (node) => { for (let up = node.parentElement; up; up = up.parentElement) if (scrolls(up)) return true; };
  return [...document.querySelectorAll('body *')].filter((node) => {
    if (scrolls(node)) return node.scrollWidth > node.clientWidth + 1 && node.tabIndex < 0;
    const { width: own, right, left } = node.getBoundingClientRect();
    return own && (right > width + 0.5 || left < -0.5) && !held(node) && !node.closest('thead');
  }).map((node) => `${node.tagName} ${node.getAttribute('class')} ${node.textContent.trim().slice(0, 30)}`);
}
"""

# Headings that leave out a level.
SKIPPED_HEADINGS = """
() => [...document.querySelectorAll('h1, h2, h3, h4')].filter((node, place, all) =>
  Number(node.tagName[1]) > (place ? Number(all[place - 1].tagName[1]) + 1 : 1)).map((node) => node.textContent)
"""

# Letters in pictures that are drawn smaller than one can read, in pixels of the screen.
SMALL_LETTERS = """
() => [...document.querySelectorAll('svg text')].filter((node) => {
  const { a } = node.getScreenCTM();
  return parseFloat(getComputedStyle(node).fontSize) * a < 11;
}).map((node) => node.textContent)
"""

# Which way two characters of a text lie, by their places in it.
PLACES = """
(node, places) => {
  const [first, last] = places.map((place) => {
    const range = document.createRange();
    range.setStart(node.firstChild, place);
    range.setEnd(node.firstChild, place + 1);
    return range.getBoundingClientRect().left;
  });
  return first < last ? 'left to right' : 'right to left';
}
"""
