// The page: which conversation is open, what is asked, and what happens when something is pressed.

import { ServerError, models, pageSettings, sendFeedback } from "./api.js";
import { Asking, messagesBefore } from "./asking.js";
import { byId, element } from "./dom.js";
import { MessagesView } from "./messages.js";
import { SettingsDialog, sampling, settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { conversations, isConversationKey, loadConversation, newConversation, saveConversation, saveSettings } from "./store.js";

// Milliseconds between two times that an answer being written is kept.
const KEEP_MS = 1000;
const question = byId("question");
const say = (words) => (byId("status").textContent = words);
let current = newConversation();
let keptAt = 0;

const asking = new Asking({
  changed(conversation, _turn, answer) {
    if (conversation === current) view.moved(answer);
    if (performance.now() - keptAt > KEEP_MS) keep(conversation);
  },
  ended(conversation, turn) {
    keep(conversation);
    sidebar.draw(current.id);
    draw();
    say(spoken(turn));
  },
});

const view = new MessagesView({
  again: (index) => ask(index),
  edit(index, text) {
    current.turns[index].question = text;
    ask(index);
  },
  editAnswer(answer, text) {
    // A thumb was for the words that were there before.
    if (answer.rating) rate(current.turns.findIndex((turn) => turn.answers.includes(answer)), answer, null);
    Object.assign(answer, { text, state: "done", edited: true, words: "" });
    keep(current);
    draw();
  },
  prefer(turn, answer) {
    turn.chosen = turn.answers.indexOf(answer);
    keep(current);
    draw();
    say(`The conversation goes on with the answer of ${answer.model}`);
  },
  rate,
  openSettings: () => dialog.open(current.system),
});

const sidebar = new Sidebar({
  create() {
    open(newConversation(current.system));
    question.focus();
  },
  open(id) {
    // The one that is being answered is alive, and newer than what is kept of it.
    const found = asking.conversation?.id === id ? asking.conversation : loadConversation(id);
    if (found) open(found);
  },
  deleted(id) {
    if (asking.conversation?.id === id) {
      asking.conversation.isDeleted = true;
      asking.stop();
    }
    if (id === current.id) open(newConversation());
    else sidebar.draw(current.id);
  },
  renamed(conversation) {
    for (const held of [current, asking.conversation]) {
      if (held?.id === conversation.id) Object.assign(held, { title: conversation.title, named: true });
    }
  },
});

const dialog = new SettingsDialog({
  onSystem(text) {
    current.system = text;
    keep(current);
    draw();
  },
  onKey: loadModels,
});

const wordsOfError = (error) => (error instanceof ServerError ? error.message : `The page failed: ${error.message}`);

function notice(words) {
  byId("notice").textContent = words;
  byId("notice").hidden = !words;
}

function keep(conversation) {
  keptAt = performance.now();
  // Deleted while it was answered: it stays deleted.
  if (conversation.isDeleted) return;
  conversation.updated = Date.now();
  notice(saveConversation(conversation));
}

function open(conversation) {
  current = conversation;
  view.follows = true;
  draw();
  sidebar.draw(current.id);
  document.title = conversation.turns.length ? `${conversation.title} – NeuralChat` : "NeuralChat";
}

function draw() {
  view.draw(current, { isBusy: asking.isUnderWay });
  const send = byId("send");
  const mode = asking.isUnderWay ? "stop" : "send";
  if (send.dataset.mode === mode) return;
  send.dataset.mode = mode;
  send.setAttribute("aria-label", mode === "stop" ? "Stop the answer" : "Send");
  send.title = mode === "stop" ? "Stop (Esc)" : "Send (Enter)";
  send.querySelector("use").setAttribute("href", `#icon-${mode}`);
}

function chosenModels() {
  const [model, beside] = [byId("model").value, byId("beside").value];
  return beside && beside !== model ? [model, beside] : [model];
}

// Ask the question of a turn, and forget the turns after it.
async function ask(index) {
  const conversation = current;
  if (asking.isUnderWay || (!byId("model").value && !(await loadModels()))) {
    draw();
    return;
  }
  conversation.turns.length = index + 1;
  // What it does before the first word is done when it returns.
  const done = asking.ask(conversation, index, chosenModels(), sampling());
  keep(conversation);
  sidebar.draw(current.id);
  view.follows = true;
  draw();
  say("The answer is being written");
  await done;
}

function send() {
  const text = question.value;
  if (!text.trim() || asking.isUnderWay) return;
  question.value = "";
  grow();
  current.turns.push({ question: text, answers: [], chosen: 0 });
  ask(current.turns.length - 1);
}

async function rate(index, answer, rating) {
  const conversation = current;
  const before = answer.rating;
  const messages = [
    ...messagesBefore(conversation, index),
    { role: "user", content: conversation.turns[index].question },
    { role: "assistant", content: answer.text },
  ];
  answer.rating = rating;
  draw();
  try {
    await sendFeedback({ id: answer.id, feedback: rating ?? "none", model: answer.model, messages });
    keep(conversation);
    say(rating ? "Kept as feedback" : "Feedback taken back");
  } catch (error) {
    answer.rating = before;
    draw();
    notice(wordsOfError(error));
  }
}

function spoken(turn) {
  const words = { done: "Answer", cut: "Answer, cut", stopped: "Stopped", failed: "No answer" };
  return turn.answers.map((answer) => `${words[answer.state]} of ${answer.model}: ${answer.text || answer.words}`).join("\n");
}

// Whether there is a model to ask.
async function loadModels() {
  let found;
  try {
    found = await models();
  } catch (error) {
    notice(wordsOfError(error));
    return false;
  }
  notice(found.length ? "" : "The server has no model.");
  // What was trained first; its base is what it is compared with.
  found.sort((a, b) => Number(a.base === null) - Number(b.base === null));
  const bases = new Set(found.map((model) => model.base));
  const options = () => found.map(({ id }) => element("option", { value: id }, bases.has(id) ? `${id} (base)` : id));
  fill("model", options(), found[0]?.id ?? "");
  fill("beside", [element("option", { value: "" }, "none"), ...options()], "");
  byId("beside-choice").hidden = found.length < 2;
  return found.length > 0;
}

function fill(name, options, otherwise) {
  const select = byId(name);
  select.replaceChildren(...options);
  select.disabled = options.length === 0;
  select.value = settings[name] ?? otherwise;
  if (select.selectedIndex < 0) select.value = otherwise;
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, window.innerHeight * 0.4)}px`;
}

question.addEventListener("input", grow);
question.addEventListener("keydown", (event) => {
  // Enter that ends the writing of a character (Japanese, Chinese) sends nothing.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
byId("send").addEventListener("click", () => {
  if (asking.isUnderWay) asking.stop();
  else send();
  question.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) asking.stop();
});
for (const name of ["model", "beside"]) {
  byId(name).addEventListener("change", () => {
    settings[name] = byId(name).value;
    saveSettings(settings);
  });
}
// The tab is closed or loaded anew: what has come of an answer is kept as one that was stopped.
window.addEventListener("pagehide", () => {
  if (!asking.isUnderWay) return;
  asking.stop();
  keep(asking.conversation);
});
// Another tab has changed something.
window.addEventListener("storage", (event) => isConversationKey(event.key) && sidebar.draw(current.id));

open(conversations()[0] ? loadConversation(conversations()[0].id) : current);
question.focus();
loadModels();
pageSettings().then((found) => {
  view.canRate = found.feedback;
  draw();
}).catch((error) => notice(error.message));
