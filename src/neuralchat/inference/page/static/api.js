// The server of this page, and no other: models, answers as they are written, Markdown, thumbs.

import { loadKey } from "./store.js";

const address = (path) => new URL(path, document.baseURI);

// `words`: for the person. `needsKey`: the settings have a field for what is missing.
export class ServerError extends Error {
  constructor(words, status = 0) {
    super(words);
    this.status = status;
    this.needsKey = status === 401 || status === 403;
  }
}

function wordsOf(status, said, retryAfter) {
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  const later = Number.isFinite(seconds) ? `in ${seconds} second${seconds === 1 ? "" : "s"}` : "in a moment";
  // Behind a sentence of the page's own.
  const detail = said ? ` ${said[0].toUpperCase()}${said.slice(1)}` : "";
  if (status === 401 || status === 403) return `The server wants a key.${detail}`;
  if (status === 429) return `The server is busy; ask again ${later}.${detail}`;
  if (status === 503) return `The model cannot answer just now; ask again ${later}.${detail}`;
  if (status >= 500) return `The server failed (${status}).${detail}`;
  return said || `The server refused the request (${status}).`;
}

function messageIn(body) {
  const said = body?.error?.message ?? body?.detail ?? body?.message;
  return typeof said === "string" ? said : said ? JSON.stringify(said) : "";
}

async function request(path, { body, signal } = {}) {
  const headers = { Accept: "application/json, text/event-stream" };
  const key = loadKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path), {
      method: body === undefined ? "GET" : "POST", headers, signal, credentials: "same-origin", redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    await ifStillHere();
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let said = "";
  try {
    said = messageIn(JSON.parse(text));
  } catch {
    // A proxy's page, which says nothing to the person.
  }
  throw new ServerError(wordsOf(response.status, said, response.headers.get("Retry-After")), response.status);
}

const json = async (path, options) => (await request(path, options)).json();

// [{ id, base }]: `base` is the name of the model that it was trained from, or null.
export async function models() {
  const listed = (await json("v1/models")).data ?? [];
  return listed.map((model) => ({ id: String(model.id), base: model.parent ?? model.base_model ?? null }));
}

export const pageSettings = () => json("page/settings");

export const sendFeedback = (answer) => json("page/feedback", { body: answer });

// The HTML of texts; null where they were too much for the server, and stay text.
export async function rendered(texts) {
  try {
    return (await json("page/render", { body: { texts } })).html;
  } catch (error) {
    if (error instanceof ServerError) return null;
    throw error;
  }
}

// For a connection that broke: a page that is being left loses its connections first, and has nothing to tell then.
const ifStillHere = () => new Promise((resolve) => setTimeout(resolve, 250));

// The data of each event of a stream (server-sent events).
async function* events(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let waiting = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read().catch(async (error) => {
      if (error.name === "AbortError") throw error;
      await ifStillHere();
      throw new ServerError("The connection to the server broke off.");
    });
    waiting += decoder.decode(value, { stream: !done });
    const lines = waiting.split(/\r\n|\n/);
    waiting = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
    if (!done) continue;
    if (data.length) yield data.join("\n");
    return;
  }
}

// One answer: calls onText(piece) for each piece; returns { finish, usage } when the model has ended it.
export async function streamedAnswer(body, { signal, onText }) {
  const response = await request("v1/chat/completions", {
    body: { ...body, stream: true, stream_options: { include_usage: true } }, signal,
  });
  let finish = null;
  let usage = null;
  let ended = false;
  for await (const data of events(response)) {
    if (data === "[DONE]") {
      ended = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(wordsOf(Number(chunk.error.status) || 500, messageIn(chunk)));
    if (chunk.usage) usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    if (choice?.finish_reason) finish = choice.finish_reason;
  }
  if (!ended && finish === null) throw new ServerError("The connection ended before the answer did.");
  return { finish, usage };
}
