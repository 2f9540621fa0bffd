// The events of one job, in order and each exactly once: by websocket, after a loss of it by polling, from `seq` on.

const API = "/api/v1/jobs";
const MAX_WAIT = 15_000;
const FAR_BEHIND = 2000; // events: of more than these only the newest are fetched, and the page is asked for anew
const NEWEST = 500;

/**
 * @param {string} id job
 * @param {{after: number, onEvents: (events: object[]) => void, onSkipped?: () => void, onConnection?: (state: string) => void}} options
 *   `after`: the last seq the page already shows. `onSkipped`: so many events were missed that some never come;
 *   load anew what is made of them. `onConnection` hears connecting, live, polling, closed.
 * @returns {{stop: () => void, seq: () => number}}
 */
export function follow(id, { after, onEvents, onSkipped = () => {}, onConnection = () => {} }) {
  let seq = after;
  let stopped = false;
  let socket = null;
  let failures = 0;
  let timers = new Set();
  let fetching = null;

  const later = (call, wait) => {
    const timer = setTimeout(() => {
      timers.delete(timer);
      if (!stopped) call();
    }, wait);
    timers.add(timer);
  };

  const deliver = (events) => {
    const fresh = [];
    for (const event of events) {
      if (!(event.seq > seq)) continue; // seen already: replays overlap
      seq = event.seq;
      fresh.push(...unpacked(flat(event)));
    }
    if (fresh.length) onEvents(fresh);
  };

  /** Fetch every event after `seq` from the API, page by page. */
  const catchUp = () => {
    fetching ??= (async () => {
      for (;;) {
        const response = await fetch(`${API}/${id}/events/?after=${seq}&limit=500`, { headers: { accept: "application/json" } });
        if (!response.ok) throw new Error(`events: ${response.status}`);
        const body = await response.json();
        const events = Array.isArray(body) ? body : (body.results ?? []);
        if (body.last_seq - seq > FAR_BEHIND) {
          seq = body.last_seq - NEWEST;
          onSkipped();
          continue;
        }
        const before = seq;
        deliver(events);
        if (stopped || !events.length || seq === before || events.length < 500) return;
      }
    })().finally(() => (fetching = null));
    return fetching;
  };

  const receive = async (frame) => {
    if (Array.isArray(frame.events)) {
      deliver(frame.events); // one frame may carry many
      if (frame.skipped) {
        seq = Math.max(seq, frame.seq);
        onSkipped();
      }
    } else if (frame.type === "hint" || frame.type === "gap" || frame.seq > seq + 1 || frame.seq === undefined) {
      await catchUp().catch(() => {}); // "something up to seq N": the database has it
    } else {
      deliver([frame]);
    }
  };

  const connect = () => {
    if (stopped) return;
    if (failures === 0) onConnection("connecting");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    try {
      socket = new WebSocket(`${scheme}://${location.host}/ws/jobs/${id}/?after=${seq}`);
    } catch {
      lost();
      return;
    }
    const opening = setTimeout(() => socket.readyState === WebSocket.CONNECTING && socket.close(), 8000);
    let queue = Promise.resolve();
    socket.addEventListener("open", () => {
      clearTimeout(opening);
      failures = 0;
      onConnection("live");
    });
    socket.addEventListener("message", ({ data }) => {
      queue = queue.then(() => receive(JSON.parse(data))).catch((error) => console.warn("live frame", error));
    });
    socket.addEventListener("close", () => {
      clearTimeout(opening);
      lost();
    });
  };

  const lost = () => {
    if (stopped) return;
    failures += 1;
    onConnection("polling");
    if (failures === 1) poll();
    // Full jitter keeps a thousand pages from coming back in the same second after a restart.
    later(connect, Math.min(MAX_WAIT, 500 * 2 ** Math.min(failures, 6)) * (0.5 + Math.random() / 2));
  };

  const poll = async () => {
    if (stopped || socket?.readyState === WebSocket.OPEN) return;
    if (!document.hidden) await catchUp().catch(() => {});
    later(poll, document.hidden ? 10_000 : 2000);
  };

  const stop = () => {
    stopped = true;
    for (const timer of timers) clearTimeout(timer);
    socket?.close();
    onConnection("closed");
  };

  window.addEventListener("pagehide", stop, { once: true });
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());
  connect();
  return { stop, seq: () => seq };
}

/** Events come flat ({seq, type, at, …}) or with their fields in `body`. */
function flat(event) {
  const { body, ...rest } = event;
  return body && typeof body === "object" ? { ...body, ...rest } : rest;
}

/** A metrics event may hold several steps, `points: {key: [[step, value], …]}`: one event per step. */
function unpacked(event) {
  if (event.type !== "metrics" || !event.points) return [event];
  const steps = new Map();
  for (const [key, points] of Object.entries(event.points)) {
    for (const [step, value] of points) steps.set(step, { ...steps.get(step), [key]: value });
  }
  const { points, ...rest } = event;
  return [...steps].sort(([a], [b]) => a - b).map(([step, values]) => ({ ...rest, step, values }));
}
