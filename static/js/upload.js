// Uploads in chunks, with progress, that go on after a broken connection. Without this file the form sends the file
// itself. <form data-chunked="begin URL" data-chunk-url="…"> with an input[type=file] in a [data-upload-part].
// When all is there, the part is asked for again: it says what the file seems to be, and what its columns are.
const RETRIES = 6;
const size = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const megabytes = (bytes) => `${size.format(bytes / 1e6)} MB`;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

export function start(root = document) {
  for (const form of root.querySelectorAll("form[data-chunked]:not([data-started])")) {
    form.dataset.started = "1";
    new Uploads(form);
  }
}

class Refused extends Error {}

class Uploads {
  constructor(form) {
    this.form = form;
    this.token = form.querySelector("[name=csrfmiddlewaretoken]").value;
    form.addEventListener("change", (event) => {
      if (event.target.type === "file" && event.target.files.length) this.send(event.target.files[0]);
      else if (event.target.matches("[data-look-again]") && form.querySelector("[name=upload]")?.value) this.look();
    });
    form.addEventListener("submit", (event) => {
      if (!this.sending) return;
      event.preventDefault(); // the file is still on its way
      event.stopImmediatePropagation();
      this.say("The file is still being sent. Import it when it is here.");
    }, { capture: true });
  }

  get part() {
    return this.form.querySelector("[data-upload-part]");
  }

  async send(file) {
    this.sending?.abort();
    const mine = (this.sending = new AbortController());
    this.show(file);
    try {
      const begun = await this.post(this.form.dataset.chunked, new URLSearchParams({ name: file.name, size: file.size }), {}, mine);
      let arrived = 0;
      while (arrived < file.size) {
        arrived = await this.chunk(file, begun, arrived, mine);
        this.progress(arrived, file.size);
      }
      this.sending = null;
      await this.look(begun.upload);
    } catch (error) {
      if (mine.signal.aborted) return; // another file was chosen, or this one given up
      this.sending = null;
      this.restore(error instanceof Refused ? error.message : "The connection was lost. Choose the file again.");
    }
  }

  /** Send one chunk, again if need be, from where the server is. Returns the bytes that are there. */
  async chunk(file, begun, arrived, mine) {
    for (let attempt = 0; ; attempt++) {
      try {
        const headers = { "X-Upload": begun.upload, "X-Offset": String(arrived), "Content-Type": "application/octet-stream" };
        const answer = await this.post(this.form.dataset.chunkUrl, file.slice(arrived, arrived + begun.chunk), headers, mine);
        return answer.arrived;
      } catch (error) {
        if (mine.signal.aborted || error instanceof Refused || attempt >= RETRIES) throw error;
        this.say(`The connection broke off; trying again (${attempt + 1} of ${RETRIES}).`);
        await wait(500 * 2 ** attempt);
        const headers = { "X-Upload": begun.upload, "Content-Type": "application/octet-stream" };
        arrived = (await this.post(this.form.dataset.chunkUrl, null, headers, mine).catch(() => ({ arrived }))).arrived;
      }
    }
  }

  async post(url, body, headers, mine) {
    const response = await fetch(url, { method: "POST", body, headers: { "X-CSRFToken": this.token, ...headers }, signal: mine.signal });
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    if (response.status >= 500 || response.status === 409) throw new Error(answer.detail);
    throw new Refused(answer.detail || "The file was refused.");
  }

  /** Ask what the file seems to be, with what the form says so far, and put that in the file's place. */
  async look(upload = this.form.querySelector("[name=upload]").value) {
    this.say("Looking at the file…");
    const body = new FormData(this.form);
    body.delete("file");
    body.set("upload", upload);
    body.set("look", "1");
    body.set("part", "1");
    const response = await fetch(this.form.action || location.href, { method: "POST", body });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const part = page.querySelector("[data-upload-part]");
    if (!part) {
      location.reload(); // signed out, or a problem that has a page of its own
      return;
    }
    this.part.replaceWith(part);
    const name = this.form.querySelector("input[name=name]");
    const stem = part.dataset.stem;
    if (name && !name.value && stem) name.value = stem;
  }

  show(file) {
    this.before ??= this.part.cloneNode(true);
    const box = document.createElement("div");
    box.dataset.uploadPart = "";
    box.innerHTML = '<div class="card card-body stack-s stack"><div class="progress"><div class="progress-text"><b></b><span role="status"></span></div><progress class="bar" max="1" value="0"></progress></div><div><button type="button" class="btn btn-quiet">Stop</button></div></div>';
    box.querySelector("b").textContent = file.name;
    box.querySelector("progress").setAttribute("aria-label", `Sending ${file.name}`);
    box.querySelector("button").addEventListener("click", () => {
      this.sending?.abort();
      this.sending = null;
      this.restore("");
    });
    this.part.replaceWith(box);
    this.began = performance.now();
    this.progress(0, file.size);
  }

  progress(arrived, total) {
    const share = total ? arrived / total : 1;
    const bar = this.part.querySelector("progress");
    if (bar) bar.value = share;
    const seconds = (performance.now() - this.began) / 1000;
    const left = share > 0 && share < 1 ? Math.ceil((seconds / share) * (1 - share)) : 0;
    const eta = left > 1 ? `, ${left < 90 ? `${left} s` : `${Math.round(left / 60)} min`} left` : "";
    this.say(`${megabytes(arrived)} of ${megabytes(total)}${eta}`);
  }

  say(text) {
    const line = this.part.querySelector("[role=status]");
    if (line) line.textContent = text;
  }

  /** The choice of a file again, with what went wrong. */
  restore(problem) {
    const part = this.before.cloneNode(true);
    this.part.replaceWith(part);
    if (!problem) return;
    const line = document.createElement("p");
    line.className = "field-error";
    line.setAttribute("role", "alert");
    line.textContent = problem;
    part.append(line);
  }
}
