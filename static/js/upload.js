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
      else if (event.target.matches("[data-look-again]") && form.querySelector("[name=upload]")?.value) this.lookAgain();
    });
    form.addEventListener("submit", (event) => {
      if (!this.sending && !this.interrupted) return;
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
    this.show(file);
    await this.go({ file, begun: null, arrived: 0 });
  }

  /** Send what the server lacks: all of it, or the rest after the connection broke off. */
  async go(upload) {
    const { file } = upload;
    const mine = (this.sending = new AbortController());
    this.interrupted = null;
    this.began = { at: performance.now(), arrived: upload.arrived };
    try {
      upload.begun ??= await this.post(this.form.dataset.chunked, new URLSearchParams({ name: file.name, size: file.size }), {}, mine);
      this.progress(upload.arrived, file.size);
      while (upload.arrived < file.size) {
        upload.arrived = await this.chunk(file, upload.begun, upload.arrived, mine);
        this.progress(upload.arrived, file.size);
      }
      await this.look(upload.begun.upload, mine.signal);
      this.sending = null;
    } catch (error) {
      if (mine.signal.aborted) return; // another file was chosen, or this one given up
      this.sending = null;
      if (error instanceof Refused) this.restore(error.message);
      else this.pause(upload);
    }
  }

  /** The connection is gone: what has arrived stays, and the rest is sent when it is back or somebody asks for it. */
  pause(upload) {
    this.interrupted = upload;
    this.say(`The connection was lost. ${megabytes(upload.arrived)} of ${megabytes(upload.file.size)} have arrived and are kept.`);
    const button = this.part.querySelector("[data-go-on]");
    const goOn = () => {
      window.removeEventListener("online", goOn);
      if (this.interrupted !== upload) return;
      const focused = document.activeElement === button;
      button.hidden = true;
      if (focused) this.part.querySelector("[data-stop]").focus();
      this.go(upload);
    };
    button.onclick = goOn;
    button.hidden = false;
    if (this.part.contains(document.activeElement)) button.focus();
    window.addEventListener("online", goOn);
  }

  /** Send one chunk, again if need be, from where the server is. Returns the bytes that are there. */
  async chunk(file, begun, arrived, mine) {
    for (let attempt = 0; ; attempt++) {
      try {
        const headers = { "X-Upload": begun.upload, "X-Offset": String(arrived), "Content-Type": "application/octet-stream" };
        const answer = await this.post(this.form.dataset.chunkUrl, file.slice(arrived, arrived + begun.chunk), headers, mine);
        return answer.arrived;
      } catch (error) {
        if (mine.signal.aborted || error instanceof Refused || attempt >= RETRIES || !navigator.onLine) throw error;
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
  async look(upload, signal) {
    this.say("Looking at the file…");
    const body = new FormData(this.form);
    body.delete("file");
    body.set("upload", upload);
    body.set("look", "1");
    body.set("part", "1");
    const response = await fetch(this.form.action || location.href, { method: "POST", body, signal });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const part = page.querySelector("[data-upload-part]");
    if (!part) {
      location.reload(); // signed out, or a problem that has a page of its own
      return;
    }
    this.exchange(part);
    this.say(part.querySelector("[data-unclear]") ? "Say what the columns are." : "Look whether this is what you meant.");
    const name = this.form.querySelector("input[name=name]");
    const stem = part.dataset.stem;
    if (name && !name.value && stem) name.value = stem;
  }

  /** A column or the format was changed: the newest answer counts. */
  async lookAgain() {
    this.looking?.abort();
    const mine = (this.looking = new AbortController());
    try {
      await this.look(this.form.querySelector("[name=upload]").value, mine.signal);
    } catch {
      if (!mine.signal.aborted) this.say("The connection was lost. What you chose is kept; import it when it is back.");
    }
  }

  show(file) {
    this.before ??= this.part.cloneNode(true);
    const box = document.createElement("div");
    box.dataset.uploadPart = "";
    box.innerHTML = '<div class="card card-body stack-s stack"><div class="progress"><div class="progress-text"><b class="wrap-anywhere"></b><span data-said></span></div><progress class="bar" max="1" value="0"></progress></div><span class="visually-hidden" role="status"></span><div class="row"><button type="button" class="btn btn-primary" data-go-on hidden>Go on</button><button type="button" class="btn btn-quiet" data-stop>Stop</button></div></div>';
    box.querySelector("b").textContent = file.name;
    box.querySelector("progress").setAttribute("aria-label", `Sending ${file.name}`);
    box.querySelector("[data-stop]").addEventListener("click", () => {
      this.sending?.abort();
      this.sending = this.interrupted = null;
      this.restore("");
    });
    this.exchange(box);
  }

  /** Put `part` in the place of the one that is there. Who was in it with the keyboard still is. */
  exchange(part) {
    const was = this.part.contains(document.activeElement) ? document.activeElement : null;
    this.part.replaceWith(part);
    if (!was) return;
    const same = was.id && document.getElementById(was.id);
    const next = same || part.querySelector("[data-stop], input[type=file]:not(details input), select:not(details:not([open]) select)") || part;
    if (next === part) part.tabIndex = -1;
    next.focus();
  }

  progress(arrived, total) {
    const share = total ? arrived / total : 1;
    const bar = this.part.querySelector("progress");
    if (bar) bar.value = share;
    const seconds = (performance.now() - this.began.at) / 1000;
    const sent = arrived - this.began.arrived;
    const left = sent > 0 && share < 1 ? Math.ceil((seconds / sent) * (total - arrived)) : 0;
    const eta = left > 1 ? `, ${left < 90 ? `${left} s` : `${Math.round(left / 60)} min`} left` : "";
    const tenth = Math.floor(share * 10); // read aloud ten times, not at each chunk
    this.say(`${megabytes(arrived)} of ${megabytes(total)}${eta}`, tenth !== this.tenth);
    this.tenth = tenth;
  }

  say(text, aloud = true) {
    const seen = this.part.querySelector("[data-said]");
    if (seen) seen.textContent = text;
    const line = this.part.querySelector("[role=status]");
    if (line && aloud) line.textContent = text;
  }

  /** The choice of a file again, with what went wrong. */
  restore(problem) {
    const part = this.before.cloneNode(true);
    this.exchange(part);
    if (!problem) return;
    const line = document.createElement("p");
    line.className = "field-error";
    line.setAttribute("role", "alert");
    line.textContent = problem;
    part.append(line);
  }
}
