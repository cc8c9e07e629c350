// Elements from words. Text becomes text nodes; HTML enters by `setCleanHtml` alone.

const SVG = "http://www.w3.org/2000/svg";
// Chromium and Firefox let only this policy make HTML (Content-Security-Policy: trusted-types).
const policy = window.trustedTypes?.createPolicy("neuralchat", { createHTML: (html) => html });

export const byId = (id) => document.getElementById(id);

// element("p", { class: "x", title: "y", onclick: f, hidden: true }, "text", child)
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

// A button with an icon; its label is its name for screen readers, and its hint.
export function iconButton(label, iconName, onclick, attributes = {}) {
  return element("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick, ...attributes },
    icon(iconName));
}

// `html`: only what /page/render has cleaned.
export function setCleanHtml(node, html) {
  node.innerHTML = policy ? policy.createHTML(html) : html;
}

// The name of the control that has the focus, so that it has it again when its part of the page is drawn anew.
export function keepingFocus(draw) {
  const held = document.activeElement?.dataset?.focus;
  draw();
  if (held) document.querySelector(`[data-focus="${CSS.escape(held)}"]`)?.focus();
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS browsers have no clipboard but this one.
    const field = element("textarea", { class: "unseen", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}
