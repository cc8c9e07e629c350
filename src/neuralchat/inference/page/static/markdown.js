// Answers as they are shown: Markdown that the server has rendered and cleaned, plain text until then.

import { rendered } from "./api.js";
import { copyText, element, icon, setCleanHtml } from "./dom.js";

// Text -> HTML, or null where the server does not render it. Bounded: answers being written come in many versions.
const known = new Map();
const MOST_KNOWN = 400;
// What the server takes at once (routes.py).
const AT_ONCE = { texts: 100, characters: 100_000 };

function remember(text, html) {
  known.delete(text);
  known.set(text, html);
  if (known.size > MOST_KNOWN) known.delete(known.keys().next().value);
}

// Have the HTML of all these texts ready.
export async function prepare(texts) {
  const missing = [...new Set(texts)].filter((text) => text.trim() && text.length < AT_ONCE.characters && !known.has(text));
  while (missing.length) {
    const batch = [missing.pop()];
    let characters = batch[0].length;
    while (missing.length && batch.length < AT_ONCE.texts && characters + missing.at(-1).length <= AT_ONCE.characters) {
      characters += missing.at(-1).length;
      batch.push(missing.pop());
    }
    const html = await rendered(batch);
    batch.forEach((text, index) => remember(text, html?.[index] ?? null));
  }
}

// The beginning of a text whose blocks are all ended: up to its last empty line that is in no block of code.
export function wholeBlocks(text) {
  let fence = null;
  let end = 0;
  let position = 0;
  for (const line of text.split("\n").slice(0, -1)) {
    const marks = /^\s{0,3}(`{3,}|~{3,})/.exec(line)?.[1];
    position += line.length + 1;
    if (fence === null && marks) fence = marks;
    else if (fence !== null && marks?.startsWith(fence) && line.trim() === marks) {
      fence = null;
      end = position;
    } else if (fence === null && !line.trim()) end = position;
  }
  return text.slice(0, end);
}

// Show `text` in `node`: as much of its beginning as is rendered already, and the rest as it is.
export function show(node, text) {
  const beginning = [text, wholeBlocks(text)].find((part) => part.trim() && known.get(part));
  if (beginning && node.shownText !== beginning) {
    const part = element("div", { class: "markdown" });
    setCleanHtml(part, known.get(beginning));
    part.querySelectorAll("pre").forEach(addCodeHead);
    node.replaceChildren(part);
    node.shownText = beginning;
  }
  // Where more blocks are on their way, those that are shown stay.
  if (!node.shownText || !text.startsWith(node.shownText)) {
    node.replaceChildren();
    node.shownText = "";
  }
  const rest = node.querySelector(":scope > .raw") ?? node.appendChild(element("div", { class: "raw" }));
  rest.textContent = text.slice(node.shownText.length);
}

function addCodeHead(block) {
  const code = block.querySelector("code");
  const language = [...(code?.classList ?? [])].find((name) => name.startsWith("language-"))?.slice(9) ?? "";
  const copy = element("button", { type: "button", class: "quiet with-words", "aria-label": "Copy the code" }, icon("copy"), "Copy");
  copy.addEventListener("click", async () => {
    await copyText(code?.textContent ?? block.textContent);
    copy.lastChild.textContent = "Copied";
    setTimeout(() => (copy.lastChild.textContent = "Copy"), 1500);
  });
  const framed = element("div", { class: "code" }, element("div", { class: "code-head" }, element("span", {}, language), copy));
  block.replaceWith(framed);
  // With the keyboard, wide code is moved by the arrow keys.
  block.tabIndex = 0;
  block.setAttribute("role", "region");
  block.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  framed.append(block);
}
