// Starts the page, or says why it cannot start. Written for any browser, however old.

(function () {
  var begun = false, PATIENCE = 5000; // milliseconds for the service worker
  var SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

  function say(text) {
    document.getElementById("note").textContent = text;
    document.getElementById("state").lastElementChild.textContent = "Not started";
  }

  function begin() {
    if (begun) return;
    begun = true;
    var script = document.createElement("script");
    script.type = "module";
    script.src = "main.js";
    document.head.appendChild(script);
  }

  function able() {
    return "noModule" in HTMLScriptElement.prototype && typeof DecompressionStream === "function" &&
      typeof OffscreenCanvas === "function" && typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(SIMD));
  }

  if (location.protocol === "file:") {
    return say("Browsers do not run this page from a file. Serve its folder, for example by python -m http.server, " +
      "and open http://localhost:8000.");
  }
  if (!able()) return say("This browser cannot run the page, which needs WebAssembly SIMD: use a version of 2023 or later.");

  // The service worker adds headers to the page, so the first visit loads the page twice; the second time it is small.
  var keeper = navigator.serviceWorker;
  if (!keeper || keeper.controller) return begin();
  try {
    if (sessionStorage.getItem("biflow")) return begin(); // the headers have not come: do without
    sessionStorage.setItem("biflow", "loaded");
  } catch (error) {
    return begin();
  }
  setTimeout(begin, PATIENCE);
  keeper.register("sw.js").then(function () { return keeper.ready; }).then(function () {
    if (!begun) location.reload();
  }, begin);
})();
