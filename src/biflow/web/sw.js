// Keeps the page for use without a network, and adds the headers that let WebAssembly use several threads. A page that has
// changed gets a worker of another version, which takes over once no tab shows the old one, so that files which are kept
// are never mixed. Only those that a first visit has not loaded yet come from the page as it is by then.

const VERSION = "{{version}}", PREFIX = `biflow ${registration.scope} `;
const HEADERS = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
  "cross-origin-resource-policy": "same-origin",
};

addEventListener("activate", (event) => event.waitUntil(forgetOthers().then(() => clients.claim())));

async function forgetOthers() { // of this page; others of the same origin have their own
  const names = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== PREFIX + VERSION);
  await Promise.all(names.map((name) => caches.delete(name)));
}

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(registration.scope)) event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event;
  const cache = await caches.open(PREFIX + VERSION), kept = await cache.match(request, { ignoreSearch: true });
  if (kept) return kept;
  const found = await fetch(request.url, { cache: "no-cache" });
  if (found.status !== 200) return found;
  const headers = new Headers(found.headers);
  headers.delete("content-encoding"); // the browser has undone it
  headers.delete("content-length");
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  const fresh = new Response(found.body, { status: 200, headers });
  event.waitUntil(cache.put(request.url, fresh.clone()).catch(() => {})); // without room, it is not kept
  return fresh;
}
