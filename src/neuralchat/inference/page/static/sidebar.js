// The list of conversations: opened, renamed, deleted; on narrow screens a drawer.

import { byId, element, iconButton } from "./dom.js";
import { conversations, deleteConversation, saveConversation } from "./store.js";

const NARROW = window.matchMedia("(max-width: 800px)");

// `actions`: { open(id), create(), deleted(id), renamed(conversation) }
export class Sidebar {
  constructor(actions) {
    this.actions = actions;
    this.node = byId("sidebar");
    this.list = byId("conversations");
    this.current = "";
    this.renaming = "";
    byId("new").addEventListener("click", () => {
      this.close();
      actions.create();
    });
    byId("open-sidebar").addEventListener("click", () => this.open());
    byId("close-sidebar").addEventListener("click", () => this.close());
    byId("veil").addEventListener("click", () => this.close());
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && NARROW.matches) this.close();
    });
    NARROW.addEventListener("change", () => this.settle(false));
    this.settle(false);
    const dialog = byId("delete-dialog");
    byId("keep").addEventListener("click", () => dialog.close());
    byId("delete").addEventListener("click", () => {
      dialog.close();
      deleteConversation(this.deleting);
      actions.deleted(this.deleting);
      byId("new").focus();
    });
  }

  open() {
    this.settle(true);
    byId("new").focus();
  }

  close() {
    const wasOpen = this.node.dataset.open !== undefined;
    this.settle(false);
    if (wasOpen && NARROW.matches) byId("open-sidebar").focus();
  }

  settle(isOpen) {
    if (isOpen) this.node.dataset.open = "";
    else delete this.node.dataset.open;
    byId("veil").hidden = !(isOpen && NARROW.matches);
    // What is not seen is not reached by Tab either.
    this.node.inert = NARROW.matches && !isOpen;
    byId("open-sidebar").setAttribute("aria-expanded", String(isOpen));
  }

  draw(current) {
    this.current = current;
    this.list.replaceChildren(...conversations().map((conversation) => this.row(conversation)));
  }

  row(conversation) {
    if (this.renaming === conversation.id) return this.renamingRow(conversation);
    const isCurrent = conversation.id === this.current;
    const { title } = conversation;
    return element("li", { class: isCurrent ? "current" : "" },
      element("button", {
        type: "button", class: "title", "aria-current": isCurrent ? "true" : null, title,
        onclick: () => { this.close(); this.actions.open(conversation.id); },
      }, title),
      iconButton(`Rename ${title}`, "edit", () => this.rename(conversation)),
      iconButton(`Delete ${title}`, "trash", () => this.askToDelete(conversation)));
  }

  renamingRow(conversation) {
    const field = element("input", { type: "text", class: "rename", "aria-label": "Name of the conversation", maxlength: 200 });
    field.value = conversation.title;
    let left = false;
    const leave = (keep) => {
      if (left) return;
      left = true;
      this.renaming = "";
      if (keep && field.value.trim() && field.value !== conversation.title) {
        Object.assign(conversation, { title: field.value.trim(), named: true });
        saveConversation(conversation);
        this.actions.renamed(conversation);
      }
      this.draw(this.current);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) leave(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        leave(false);
      }
    });
    field.addEventListener("blur", () => leave(true));
    return element("li", { class: "current" }, field);
  }

  rename(conversation) {
    this.renaming = conversation.id;
    this.draw(this.current);
    const field = this.list.querySelector(".rename");
    field.focus();
    field.select();
  }

  askToDelete(conversation) {
    this.deleting = conversation.id;
    byId("delete-name").textContent = conversation.title;
    byId("delete-dialog").showModal();
    byId("keep").focus();
  }
}
