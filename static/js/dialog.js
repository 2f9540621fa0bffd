// Questions before something is done (<details data-confirm>), menus (<details data-menu>).
// Both work without this file; with it, a question is a modal dialog and menus close by themselves.

function ask(details) {
  const box = details.querySelector(".confirm-box");
  const dialog = document.createElement("dialog");
  dialog.className = "dialog";
  dialog.setAttribute("aria-labelledby", box.getAttribute("aria-labelledby"));
  dialog.append(box);
  document.body.append(dialog);
  dialog.addEventListener("close", () => {
    details.append(box);
    dialog.remove();
    details.querySelector("summary").focus();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-dialog-close]")) dialog.close();
  });
  dialog.showModal();
  box.querySelector("[autofocus], input:not([type=hidden]), textarea, [data-dialog-close]")?.focus();
}

document.addEventListener("click", (event) => {
  const summary = event.target.closest("[data-confirm] > summary");
  if (summary) {
    event.preventDefault();
    closeMenus(summary.parentElement);
    ask(summary.parentElement);
    return;
  }
  const opener = event.target.closest("[data-dialog-open]");
  if (opener) document.getElementById(opener.dataset.dialogOpen)?.showModal();
  const closer = event.target.closest("[data-dialog-close]");
  if (closer) closer.closest("dialog")?.close();
  if (!event.target.closest(".menu-title")) closeMenus(event.target);
});

function closeMenus(except) {
  for (const menu of document.querySelectorAll("[data-menu][open]")) {
    if (!menu.contains(except)) menu.open = false;
  }
}

document.addEventListener("keydown", (event) => {
  const menu = event.target.closest?.("[data-menu][open]");
  if (!menu) return;
  const items = [...menu.querySelectorAll(".menu-item")];
  const here = items.indexOf(document.activeElement);
  if (event.key === "Escape") {
    menu.open = false;
    menu.querySelector("summary").focus();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const next = event.key === "ArrowDown" ? here + 1 : here < 0 ? items.length - 1 : here - 1;
    items[(next + items.length) % items.length]?.focus();
  }
});
