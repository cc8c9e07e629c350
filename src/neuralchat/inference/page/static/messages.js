// The conversation as it is shown: a turn is the question and, beside each other, its answers.

import { chosenAnswer, counts } from "./asking.js";
import { byId, copyText, element, icon, iconButton, keepingFocus } from "./dom.js";
import { prepare, show, wholeBlocks } from "./markdown.js";

// Pixels from the end within which the page follows an answer.
const NEAR_END = 80;

// `actions`: { again(index), edit(index, text), editAnswer(answer, text), prefer(turn, answer), rate(index, answer, rating),
// openSettings() }
export class MessagesView {
  constructor(actions) {
    this.actions = actions;
    this.node = byId("messages");
    this.conversation = null;
    // Answer's id -> its element, for pieces that come.
    this.shown = new Map();
    this.editing = null;
    this.canRate = false;
    this.isBusy = false;
    this.follows = true;
    this.node.addEventListener("scroll", () => (this.follows = this.isAtEnd()), { passive: true });
  }

  isAtEnd() {
    return this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < NEAR_END;
  }

  toEnd() {
    this.follows = true;
    this.node.scrollTop = this.node.scrollHeight;
  }

  // Draw a conversation anew; `isBusy`: answers are being written somewhere, so that nothing else can be asked.
  draw(conversation, { isBusy }) {
    if (this.conversation?.id !== conversation.id) this.editing = null;
    this.conversation = conversation;
    this.isBusy = isBusy;
    this.shown.clear();
    keepingFocus(() => {
      this.node.replaceChildren(...(conversation.turns.length || conversation.system.trim() ? [] : [emptyPage()]));
      if (conversation.system.trim()) this.node.append(this.systemLine(conversation.system));
      conversation.turns.forEach((turn, index) => this.node.append(this.turn(turn, index)));
    });
    if (this.follows) this.toEnd();
    this.drawMarkdown();
  }

  // Markdown of what is ended, when the server has rendered it.
  async drawMarkdown() {
    const conversation = this.conversation;
    await prepare(conversation.turns.flatMap((turn) => turn.answers).filter((answer) => answer.state !== "writing").map((answer) => answer.text));
    if (conversation !== this.conversation) return;
    for (const answer of conversation.turns.flatMap((turn) => turn.answers)) {
      const node = this.shown.get(answer.id)?.querySelector(".text");
      if (node && answer.state !== "writing") show(node, answer.text);
    }
    if (this.follows) this.toEnd();
  }

  // A piece of an answer has come.
  async moved(answer) {
    const node = this.shown.get(answer.id)?.querySelector(".text");
    if (!node || answer.state !== "writing") return;
    show(node, answer.text);
    if (this.follows) this.toEnd();
    const blocks = wholeBlocks(answer.text);
    if (!blocks || this.preparing) return;
    this.preparing = true;
    await prepare([blocks]).finally(() => (this.preparing = false));
  }

  systemLine(text) {
    return element("button", { type: "button", class: "system-line", "data-focus": "system", onclick: this.actions.openSettings },
      element("span", {}, "System prompt"), ` ${text}`);
  }

  turn(turn, index) {
    const answers = element("div", { class: turn.answers.length > 1 ? "answers beside" : "answers" });
    for (const answer of turn.answers) answers.append(this.answer(turn, index, answer));
    return element("section", { class: "turn", "aria-label": `Turn ${index + 1}` }, this.question(turn, index), answers);
  }

  question(turn, index) {
    const name = `question:${index}`;
    if (this.editing === name) {
      const later = this.conversation.turns.length - index - 1;
      const what = later ? `Asking again replaces the answer and removes the ${later === 1 ? "turn" : `${later} turns`} after it.` : "Asking again replaces the answer.";
      return this.editor(turn.question, "Edit the question", "Ask again", what, (text) => this.actions.edit(index, text));
    }
    const text = element("div", { class: "text raw" });
    text.textContent = turn.question;
    return element("article", { class: "question", "aria-label": "You" }, text,
      element("div", { class: "tools" },
        this.copyButton(turn.question, `copy-question:${index}`, "Copy the question"),
        this.isBusy ? null : iconButton("Edit the question", "edit", () => this.edit(name), { "data-focus": `edit-question:${index}` })));
  }

  answer(turn, index, answer) {
    const isChosen = chosenAnswer(turn) === answer;
    const several = turn.answers.length > 1;
    const node = element("article", { class: "answer", "aria-label": `Answer of ${answer.model}`, "aria-busy": answer.state === "writing" ? "true" : null });
    if (several && isChosen) node.dataset.chosen = "";
    const name = `answer:${answer.id}`;
    node.append(element("p", { class: "model" }, answer.model, several && isChosen ? element("span", { class: "mark" }, "continues here") : null));
    if (this.editing === name) {
      node.append(this.editor(answer.text, "Edit the answer", "Keep", "The conversation goes on with the words you leave here.",
        (text) => this.actions.editAnswer(answer, text)));
      return node;
    }
    const text = element("div", { class: "text" });
    show(text, answer.text);
    if (answer.state === "writing" && !answer.text) text.append(element("span", { class: "thinking", "aria-hidden": "true" }, element("i"), element("i"), element("i")));
    node.append(text);
    if (answer.state !== "writing") node.append(...this.footOf(turn, index, answer, several && !isChosen));
    this.shown.set(answer.id, node);
    return node;
  }

  footOf(turn, index, answer, canPrefer) {
    const parts = [];
    if (answer.state === "failed") {
      const left = counts(turn) ? "" : " This question is left out of what follows.";
      const words = /[.!?]$/.test(answer.words) ? answer.words : `${answer.words}.`;
      parts.push(element("p", { class: "problem" }, `${words}${left}`,
        answer.needsKey ? element("button", { type: "button", class: "link", onclick: this.actions.openSettings }, "Enter a key") : null));
    }
    const words = stateWords(answer);
    const isLast = index === this.conversation.turns.length - 1;
    const rate = (rating, label) => iconButton(label, rating, () => this.actions.rate(index, answer, answer.rating === rating ? null : rating),
      { "aria-pressed": String(answer.rating === rating), "data-focus": `${rating}:${answer.id}` });
    const hasText = Boolean(answer.text.trim());
    parts.push(element("div", { class: "tools" },
      hasText ? this.copyButton(answer.text, `copy:${answer.id}`, "Copy the answer") : null,
      isLast && !this.isBusy ? iconButton("Answer again", "again", () => this.actions.again(index), { "data-focus": `again:${answer.id}` }) : null,
      hasText && !this.isBusy ? iconButton("Edit the answer", "edit", () => this.edit(`answer:${answer.id}`), { "data-focus": `edit:${answer.id}` }) : null,
      this.canRate && hasText ? rate("up", "Good answer") : null,
      this.canRate && hasText ? rate("down", "Bad answer") : null,
      canPrefer && hasText && !this.isBusy ? element("button", { type: "button", class: "quiet with-words", "data-focus": `prefer:${answer.id}`, onclick: () => this.actions.prefer(turn, answer) }, icon("prefer"), "Continue with this") : null,
      words ? element("span", { class: "stats" }, words) : null));
    return parts;
  }

  copyButton(text, name, label) {
    const made = iconButton(label, "copy", async () => {
      await copyText(text);
      made.replaceChildren(icon("done"));
      byId("status").textContent = "Copied";
      setTimeout(() => made.replaceChildren(icon("copy")), 1500);
    }, { "data-focus": name });
    return made;
  }

  edit(name) {
    this.editing = name;
    this.follows = false;
    this.draw(this.conversation, { isBusy: this.isBusy });
    const field = this.node.querySelector(".editor textarea");
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  editor(text, label, done, what, onDone) {
    const field = element("textarea", { "aria-label": label, rows: Math.min(12, text.split("\n").length + 1) });
    field.value = text;
    const leave = () => {
      const name = this.editing.replace("question:", "edit-question:").replace("answer:", "edit:");
      this.editing = null;
      this.draw(this.conversation, { isBusy: this.isBusy });
      this.node.querySelector(`[data-focus="${CSS.escape(name)}"]`)?.focus();
    };
    const finish = () => {
      if (!field.value.trim()) return;
      this.editing = null;
      onDone(field.value);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        finish();
      }
    });
    return element("div", { class: "editor" }, field, element("p", { class: "help" }, what),
      element("div", { class: "choices" },
        element("button", { type: "button", class: "plain", onclick: leave }, "Cancel"),
        element("button", { type: "button", class: "primary with-words", onclick: finish }, done)));
  }
}

function emptyPage() {
  return element("div", { class: "empty" }, element("h1", {}, "What would you like to know?"),
    element("p", {}, "Write below. What you ask stays between this browser and this server."));
}

function stateWords(answer) {
  const words = [];
  if (answer.state === "stopped") words.push("stopped");
  if (answer.state === "cut") words.push("cut: it reached the longest answer allowed");
  if (answer.edited) words.push("edited");
  if (answer.state === "done" && !answer.text.trim()) words.push("empty answer");
  if (answer.stats) {
    const { tokens, tokensPerS } = answer.stats;
    words.push(`${tokens} token${tokens === 1 ? "" : "s"}${tokensPerS ? `, ${tokensPerS.toFixed(tokensPerS < 10 ? 1 : 0)} per second` : ""}`);
  }
  return words.join(" · ");
}
