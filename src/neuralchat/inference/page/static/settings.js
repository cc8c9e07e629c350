// The settings: how answers are drawn, the system prompt, the key, the colours.

import { byId, element } from "./dom.js";
import { loadKey, loadSettings, loadTheme, saveKey, saveSettings, saveTheme } from "./store.js";

// As /v1/chat/completions names them. `whole`: whole numbers only.
const SAMPLING = [
  { name: "temperature", label: "Temperature", lowest: 0, highest: 2, help: "0: always the likeliest word" },
  { name: "top_p", label: "Top p", lowest: 0.01, highest: 1, help: "1: all words may be drawn" },
  { name: "max_tokens", label: "Longest answer, in tokens", lowest: 1, highest: 1_000_000, whole: true, help: "A token is about ¾ of a word" },
  { name: "seed", label: "Seed", lowest: 0, highest: Number.MAX_SAFE_INTEGER, whole: true, help: "The same seed repeats an answer" },
];
const THEMES = { auto: "as the system", light: "light", dark: "dark" };

export const settings = loadSettings();

// What is sent with a question: the fields that hold something.
export function sampling() {
  return Object.fromEntries(SAMPLING.map(({ name }) => [name, settings[name]]).filter(([, value]) => Number.isFinite(value)));
}

function problemOf({ lowest, highest, whole, label }, text) {
  if (!text.trim()) return "";
  const value = Number(text);
  if (!Number.isFinite(value) || value < lowest || value > highest || (whole && !Number.isInteger(value))) {
    return `${label} is ${text}; allowed is a ${whole ? "whole " : ""}number from ${lowest} to ${highest.toLocaleString("en")}.`;
  }
  return "";
}

function samplingField(field) {
  const { name, label, help } = field;
  const input = element("input", { type: "text", inputmode: field.whole ? "numeric" : "decimal", id: `setting-${name}`, autocomplete: "off", "aria-describedby": `help-${name}` });
  const words = element("span", { class: "help", id: `help-${name}` }, help);
  input.value = settings[name] ?? "";
  input.addEventListener("input", () => {
    const problem = problemOf(field, input.value);
    words.textContent = problem || help;
    words.classList.toggle("wrong", Boolean(problem));
    input.setAttribute("aria-invalid", String(Boolean(problem)));
    // What is wrong is not sent.
    if (problem || !input.value.trim()) delete settings[name];
    else settings[name] = Number(input.value);
    saveSettings(settings);
  });
  return element("label", { class: "field" }, element("span", {}, label), input, words);
}

// `onSystem(text)`: the system prompt has changed; `onKey()`: the key has.
export class SettingsDialog {
  constructor({ onSystem, onKey }) {
    this.dialog = byId("settings-dialog");
    this.system = byId("system");
    byId("sampling").append(...SAMPLING.map(samplingField));
    byId("open-settings").addEventListener("click", () => this.open());
    byId("close-settings").addEventListener("click", () => this.dialog.close());
    // A click beside the dialog closes it.
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.system.addEventListener("input", () => onSystem(this.system.value));
    const key = byId("key");
    key.value = loadKey();
    key.addEventListener("change", () => {
      saveKey(key.value.trim());
      onKey();
    });
    setUpThemes();
  }

  open(system = this.system.value) {
    this.system.value = system;
    this.dialog.showModal();
  }
}

function setUpThemes() {
  const button = byId("theme");
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
    button.title = `Colours: ${THEMES[theme]}`;
  };
  let theme = loadTheme() in THEMES ? loadTheme() : "auto";
  show(theme);
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    saveTheme(theme);
    show(theme);
  });
}
