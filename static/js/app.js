// The one module every page loads. What a page needs beyond this is loaded when its data attribute is there.
import "./copy.js";
import "./dialog.js";
import "./forms.js";
import { localTimes } from "./time.js";

const rooms = {
  "[data-chunked]": () => import("./upload.js"),
  "[data-chart]": () => import("./chart.js"),
  "[data-live-job]": () => import("./job.js"),
  "[data-playground]": () => import("./playground.js"),
  "[data-refresh]": () => import("./regions.js"),
};

function furnish(root = document) {
  localTimes(root);
  for (const [selector, load] of Object.entries(rooms)) {
    if (root.querySelector(selector)) load().then((module) => module.start(root));
  }
}

furnish();
document.addEventListener("htmx:afterSettle", () => furnish());
document.addEventListener("tuneloop:changed", () => localTimes());
