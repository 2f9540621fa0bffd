// Drop zones, buttons that cannot be pressed twice, selects that submit (data-submit-on-change).
const size = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const readable = (bytes) => {
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= factor) return `${size.format(bytes / factor)} ${unit}`;
  }
  return `${bytes} B`;
};

document.addEventListener("change", (event) => {
  const zone = event.target.closest?.("[data-dropzone]");
  if (zone && event.target.type === "file") {
    const files = [...event.target.files];
    const name = zone.querySelector("[data-dropzone-name]");
    name.dataset.empty ??= name.textContent;
    name.textContent = files.length ? files.map((file) => `${file.name} (${readable(file.size)})`).join(", ") : name.dataset.empty;
    zone.classList.toggle("has-file", files.length > 0);
  }
  if (event.target.closest?.("[data-submit-on-change]")) event.target.form?.requestSubmit();
});

for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    const zone = event.target.closest?.("[data-dropzone]");
    if (!zone) return;
    zone.classList.toggle("is-over", type === "dragenter" || type === "dragover");
    const input = zone.querySelector("input[type=file]");
    if (type === "drop" && event.target !== input && event.dataTransfer?.files.length) {
      event.preventDefault();
      input.files = event.dataTransfer.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    }
    if (type === "dragover" && event.target !== input) event.preventDefault();
  });
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.matches("[data-send]")) {
    event.preventDefault();
    sendQuietly(form, event.submitter);
    return;
  }
  if (event.defaultPrevented || form.method === "get" || "allowResubmit" in form.dataset || form.matches("[data-playground]")) return;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "1";
  const button = event.submitter;
  if (button) button.setAttribute("aria-busy", "true"); // not `disabled`: its name and value must be sent
});
/** <form data-send data-sent-text="Thank you.">: posted without leaving the page; its place is taken by the text. */
async function sendQuietly(form, submitter) {
  if (form.dataset.sent) return;
  form.dataset.sent = "1";
  let failure = "It could not be sent. Try again.";
  try {
    const body = new FormData(form, submitter);
    const response = await fetch(form.action, { method: "POST", body, headers: { accept: "application/json" } });
    if (response.ok) {
      const done = document.createElement("span");
      done.className = "muted small";
      done.setAttribute("role", "status");
      done.textContent = form.dataset.sentText || "Saved.";
      form.replaceWith(done);
      return;
    }
    const problem = await response.json().catch(() => ({}));
    failure = problem.detail || failure;
  } catch {
    // no connection: say so below
  }
  delete form.dataset.sent;
  const line = form.querySelector("[data-send-error]") ?? form.appendChild(document.createElement("p"));
  line.dataset.sendError = "";
  line.className = "field-error";
  line.setAttribute("role", "alert");
  line.textContent = failure;
}

window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) {
    delete form.dataset.sent; // back from the next page: it may be sent again
    form.querySelector("[aria-busy]")?.removeAttribute("aria-busy");
  }
});

document.addEventListener("keydown", (event) => {
  // "/" goes to the search box, as people expect
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]")) return;
  const search = document.querySelector("input[type=search]");
  if (search) {
    event.preventDefault();
    search.focus();
  }
});
