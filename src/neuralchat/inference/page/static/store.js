// Conversations and settings, kept by the browser: each conversation under a key of its own, so that tabs do not
// overwrite each other's.
//
// A conversation: { id, title, named, created, updated, system, turns }
// A turn:         { question, answers, chosen }; the answer `chosen` goes on in the conversation
// An answer:      { id, model, text, state, words, stats, rating, edited }
//   state: "writing", "done", "stopped", "cut" (as long as allowed) or "failed", and then `words` says why

const CONVERSATION = "neuralchat.conversation.";
const SETTINGS = "neuralchat.settings";
const KEY = "neuralchat.key";
const THEME = "neuralchat.theme";
const TITLE_LENGTH = 60;

// What the browser keeps; where it keeps nothing, as long as the page is open.
function storage(name) {
  try {
    const found = window[name];
    found.getItem(SETTINGS);
    return found;
  } catch {
    const held = new Map();
    return {
      get length() { return held.size; },
      key: (index) => [...held.keys()][index],
      getItem: (key) => held.get(key) ?? null,
      setItem: (key, value) => held.set(key, value),
      removeItem: (key) => held.delete(key),
    };
  }
}
const local = storage("localStorage");
const session = storage("sessionStorage");

export const newId = () =>
  // randomUUID is there on HTTPS and on this machine only.
  window.crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function parsed(text, otherwise) {
  try {
    return JSON.parse(text) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function isConversation(value) {
  return typeof value?.id === "string" && typeof value.title === "string" && Array.isArray(value.turns) &&
    value.turns.every((turn) => typeof turn?.question === "string" && Array.isArray(turn.answers));
}

export function newConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "New conversation", named: false, created: now, updated: now, system, turns: [] };
}

export function newAnswer(model) {
  return { id: newId(), model, text: "", state: "writing", words: "", stats: null, rating: null, edited: false };
}

// All conversations, the latest first.
export function conversations() {
  const found = [];
  for (let index = 0; index < local.length; index += 1) {
    const key = local.key(index);
    if (!key.startsWith(CONVERSATION)) continue;
    const value = parsed(local.getItem(key), null);
    if (isConversation(value)) found.push(value);
  }
  return found.sort((a, b) => b.updated - a.updated);
}

export function loadConversation(id) {
  const value = parsed(local.getItem(CONVERSATION + id), null);
  if (!isConversation(value)) return null;
  for (const turn of value.turns) {
    // The tab was closed while the answer was being written.
    for (const answer of turn.answers) if (answer.state === "writing") answer.state = "stopped";
  }
  return value;
}

// What went wrong, in words; "" if it is kept.
export function saveConversation(conversation) {
  if (!conversation.turns.length && !conversation.named) return "";
  if (!conversation.named && conversation.turns.length) {
    const words = conversation.turns[0].question.replace(/\s+/g, " ").trim();
    conversation.title = words.length > TITLE_LENGTH ? `${words.slice(0, TITLE_LENGTH)}…` : words;
  }
  try {
    local.setItem(CONVERSATION + conversation.id, JSON.stringify(conversation));
    return "";
  } catch {
    return "The browser has no room left for conversations, so this one will be lost when the tab is closed. Delete some to make room.";
  }
}

export const deleteConversation = (id) => local.removeItem(CONVERSATION + id);

export const isConversationKey = (key) => key === null || key.startsWith(CONVERSATION);

export const loadSettings = () => parsed(local.getItem(SETTINGS), {});

export function saveSettings(settings) {
  try {
    local.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // They hold until the tab is closed.
  }
}

// The key lives as long as the tab.
export const loadKey = () => session.getItem(KEY) ?? "";
export const saveKey = (key) => (key ? session.setItem(KEY, key) : session.removeItem(KEY));

export const loadTheme = () => local.getItem(THEME) ?? "auto";
export const saveTheme = (theme) => local.setItem(THEME, theme);
