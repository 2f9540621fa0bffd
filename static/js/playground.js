// Chat in the playground. The form works without this file (it posts and the page shows the answer); with it, the answer
// streams in. The form's action must answer `Accept: text/event-stream` with OpenAI chat chunks, or with
// `event: error` and {"message": "…"}.
import { duration } from "./time.js";

export function start(root = document) {
  for (const form of root.querySelectorAll("form[data-playground]:not([data-started])")) {
    form.dataset.started = "1";
    new Chat(form);
  }
}

class Chat {
  constructor(form) {
    this.form = form;
    this.log = document.querySelector(form.dataset.playground || "[data-chat-log]");
    this.box = form.querySelector("textarea");
    this.turns = [...this.log.querySelectorAll("[data-role]")].map((turn) => ({
      role: turn.dataset.role,
      content: turn.querySelector(".bubble-text").textContent,
    }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.stopper) this.stopper.abort();
      else this.send();
    });
    this.box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.form.requestSubmit();
      }
    });
    document.querySelectorAll("[data-chat-clear]").forEach((button) =>
      button.addEventListener("click", (event) => {
        event.preventDefault();
        this.stopper?.abort();
        this.turns = [];
        this.log.replaceChildren();
        this.box.focus();
      }),
    );
    this.down();
  }

  async send() {
    const text = this.box.value.trim();
    if (!text) return;
    this.box.value = "";
    this.turns.push({ role: "user", content: text });
    this.bubble("user", "You", text);
    const answer = this.bubble("assistant", this.modelName(), "");
    const words = answer.querySelector(".bubble-text");
    words.classList.add("is-streaming");
    this.stopper = new AbortController();
    this.busy(true);
    const began = performance.now();
    const told = { text: "", first: null, id: "", finish: "", usage: null };
    try {
      await this.stream(text, told, () => {
        told.first ??= performance.now() - began;
        words.textContent = told.text;
        this.down();
      });
      this.turns.push({ role: "assistant", content: told.text });
    } catch (error) {
      if (error.name === "AbortError") {
        told.finish = "stopped by you";
        this.turns.push({ role: "assistant", content: told.text });
      } else {
        answer.classList.add("bubble-error");
        words.textContent = told.text ? `${told.text}\n\n${error.message}` : error.message;
        this.turns.pop(); // the question was not answered: it is not part of the conversation
        if (!told.text) this.box.value = text;
      }
    }
    words.classList.remove("is-streaming");
    this.stopper = null;
    this.busy(false);
    this.meta(answer, told, performance.now() - began);
    this.down();
    this.box.focus();
  }

  async stream(text, told, changed) {
    const body = new FormData(this.form);
    body.set("messages", JSON.stringify(this.messages()));
    const field = this.box.name;
    if (field) body.set(field, text);
    const response = await fetch(this.form.action, {
      method: "POST",
      body,
      headers: { accept: "text/event-stream" },
      signal: this.stopper.signal,
    });
    const type = response.headers.get("content-type") ?? "";
    if (!type.startsWith("text/event-stream")) throw new Error(await reason(response));
    for await (const { event, data } of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (event === "error" || chunk.error) throw new Error(chunk.message ?? chunk.error?.message ?? "The model stopped with an error.");
      told.id ||= chunk.id ?? "";
      told.usage = chunk.usage ?? told.usage;
      told.variant = chunk.variant ?? told.variant;
      told.feedback_url = chunk.feedback_url ?? told.feedback_url;
      const choice = chunk.choices?.[0];
      told.finish = choice?.finish_reason ?? told.finish;
      if (choice?.delta?.content) {
        told.text += choice.delta.content;
        changed();
      }
    }
  }

  messages() {
    const system = this.form.querySelector("[name=system]") ?? document.querySelector(`[name=system][form="${this.form.id}"]`);
    const prefix = system?.value.trim() ? [{ role: "system", content: system.value.trim() }] : [];
    return [...prefix, ...this.turns.filter((turn) => turn.role !== "system")];
  }

  modelName() {
    const select = document.querySelector(`select[name=model][form="${this.form.id}"]`) ?? this.form.querySelector("select[name=model]");
    return select?.selectedOptions[0]?.textContent.trim() || "Model";
  }

  bubble(role, who, text) {
    const item = document.createElement("div");
    item.className = `bubble bubble-${role}`;
    item.dataset.role = role;
    for (const [name, content] of [["bubble-who", who], ["bubble-text", text]]) {
      const part = document.createElement(name === "bubble-who" ? "span" : "div");
      part.className = name;
      part.textContent = content;
      item.append(part);
    }
    this.log.append(item);
    this.down();
    return item;
  }

  meta(answer, told, took) {
    const line = document.createElement("div");
    line.className = "bubble-meta";
    const facts = [];
    const tokens = told.usage?.completion_tokens;
    if (told.first !== null) facts.push(`first token ${duration(told.first / 1000)}`, `in all ${duration(took / 1000)}`);
    if (tokens) facts.push(`${tokens} tokens`);
    if (tokens > 1 && took > told.first) facts.push(`${((tokens - 1) / ((took - told.first) / 1000)).toFixed(1)} tokens/s`);
    if (told.finish === "length") facts.push("cut at the token limit");
    else if (told.finish && told.finish !== "stop") facts.push(told.finish);
    for (const fact of facts) {
      const part = document.createElement("span");
      part.textContent = fact;
      line.append(part);
    }
    const template = document.querySelector("template[data-answer-tools]");
    if (template && told.id) {
      // the server's own markup for rating an answer; __ID__ becomes the answer's id
      const tools = document.createElement("div");
      tools.innerHTML = template.innerHTML.replaceAll("__ID__", encodeURIComponent(told.id));
      line.append(...tools.childNodes);
    }
    answer.append(line);
  }

  busy(on) {
    const button = this.form.querySelector("button:not([type=button])");
    if (!button) return;
    this.idle ??= [...button.childNodes];
    if (on) button.replaceChildren("Stop");
    else button.replaceChildren(...this.idle);
    this.log.setAttribute("aria-busy", String(on));
  }

  down() {
    this.log.scrollTop = this.log.scrollHeight;
  }
}

/** Server-sent events of a stream: {event, data}. Lines may be cut anywhere between two chunks. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r\n", "\n");
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let event = "message";
      const data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      }
      if (data.length) yield { event, data: data.join("\n") };
    }
  }
}

async function reason(response) {
  try {
    const body = await response.json();
    return body.detail ?? body.error?.message ?? body.message ?? `The server answered ${response.status}.`;
  } catch {
    return response.redirected ? "You are signed out. Reload the page." : `The server answered ${response.status}.`;
  }
}
