// Questions -> answers: what is sent for a turn, and the answers while they are being written.

import { ServerError, streamedAnswer } from "./api.js";
import { newAnswer } from "./store.js";

export const chosenAnswer = (turn) => turn.answers[turn.chosen] ?? turn.answers[0];

// Whether a turn goes on in the conversation: a question that got no answer is left out, so that user and assistant
// speak in turn.
export const counts = (turn) => Boolean(chosenAnswer(turn)?.text.trim());

// The messages of the turns before `index`, as they are sent.
export function messagesBefore(conversation, index) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const turn of conversation.turns.slice(0, index).filter(counts)) {
    messages.push({ role: "user", content: turn.question }, { role: "assistant", content: chosenAnswer(turn).text });
  }
  return messages;
}

// Answers under way. `changed(conversation, turn, answer)` is called for each piece; `ended(conversation, turn)` once.
export class Asking {
  constructor({ changed, ended }) {
    this.changed = changed;
    this.ended = ended;
    this.conversation = null;
    this.controller = null;
  }

  get isUnderWay() {
    return this.controller !== null;
  }

  stop() {
    this.controller?.abort();
  }

  // Ask the question of turn `index` anew, each of `models` at the same time.
  async ask(conversation, index, models, sampling) {
    const turn = conversation.turns[index];
    turn.answers = models.map(newAnswer);
    turn.chosen = 0;
    const messages = [...messagesBefore(conversation, index), { role: "user", content: turn.question }];
    this.conversation = conversation;
    this.controller = new AbortController();
    try {
      await Promise.all(turn.answers.map((answer) => this.write(conversation, turn, answer, messages, sampling)));
    } finally {
      this.controller = this.conversation = null;
      this.ended(conversation, turn);
    }
  }

  async write(conversation, turn, answer, messages, sampling) {
    const began = performance.now();
    let first = null;
    const onText = (piece) => {
      first ??= performance.now();
      answer.text += piece;
      this.changed(conversation, turn, answer);
    };
    try {
      const { finish, usage } = await streamedAnswer(
        { model: answer.model, messages, ...sampling }, { signal: this.controller.signal, onText },
      );
      answer.state = finish === "length" ? "cut" : "done";
      answer.stats = statsOf(usage, began, first ?? performance.now());
    } catch (error) {
      if (error.name === "AbortError") answer.state = "stopped";
      else {
        answer.state = "failed";
        answer.words = error instanceof ServerError ? error.message : `The page failed: ${error.message}`;
        answer.needsKey = error.needsKey ?? false;
      }
    }
    this.changed(conversation, turn, answer);
  }
}

function statsOf(usage, began, first) {
  const tokens = usage?.completion_tokens;
  if (!Number.isFinite(tokens)) return null;
  const seconds = (performance.now() - first) / 1000;
  // The first token came with the prompt.
  return { tokens, tokensPerS: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null, firstS: (first - began) / 1000 };
}
