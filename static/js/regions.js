// Parts of a page that the server renders again: <div data-region="facts">. The page is fetched as it is and its
// regions are exchanged, so there is one template and no second truth. <div data-refresh="5"> does it every 5 seconds
// while it is on the page and the page is visible.
import { localTimes } from "./time.js";

let running = null;
const shown = new WeakMap();

/** Fetch this page again and exchange what changed. Returns the new document, or null when it could not be had. */
export function refreshRegions() {
  running ??= exchange().finally(() => (running = null));
  return running;
}

async function exchange() {
  let response;
  try {
    response = await fetch(location.href, { headers: { "X-Requested-With": "fetch" }, credentials: "same-origin" });
  } catch {
    return null;
  }
  if (!response.ok || response.redirected) return null;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const old of document.querySelectorAll("[data-region]")) {
    const fresh = page.querySelector(`[data-region="${CSS.escape(old.dataset.region)}"]`);
    if (!fresh || inUse(old)) continue;
    const html = meaning(fresh);
    if (shown.get(old) === html) continue;
    shown.set(old, html);
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    old.replaceChildren(...document.importNode(fresh, true).childNodes);
    if (focused) sameIn(old, focused)?.focus({ preventScroll: true });
    for (const name of ["data-state", "class"]) {
      if (fresh.hasAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
    }
    localTimes(old);
  }
  document.dispatchEvent(new CustomEvent("tuneloop:regions", { detail: page }));
  return page;
}

/** The markup without what differs each time it is rendered: form secrets and running numbers. */
function meaning(region) {
  return region.innerHTML.replaceAll(/(name="csrfmiddlewaretoken" value=")[^"]*/g, "$1").replaceAll(/(confirm|chart)-\d+/g, "$1");
}

/** The element that took the place of `element`. */
function sameIn(region, element) {
  const words = element.textContent.trim();
  return [...region.querySelectorAll(element.tagName)].find((other) => other.textContent.trim() === words);
}

/** Somebody types, has a menu open or is being asked something: leave it alone until the next round. */
function inUse(region) {
  const focus = document.activeElement;
  if (focus && focus !== region && region.contains(focus) && focus.matches("input, textarea, select")) return true;
  if (region.querySelector("[data-menu][open]")) return true;
  return Boolean(document.querySelector("dialog[open]")) && Boolean(region.querySelector("[data-confirm]"));
}

let timer;
export function start() {
  clearTimeout(timer);
  const wish = document.querySelector("[data-refresh]");
  const seconds = Number(wish?.dataset.refresh);
  if (!seconds) return;
  timer = setTimeout(async () => {
    if (!document.hidden) await refreshRegions();
    start();
  }, Math.max(1, seconds) * 1000);
}
