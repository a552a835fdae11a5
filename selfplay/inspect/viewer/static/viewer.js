// Conveniences: every page works without this file.
"use strict";

(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ------------------------------------------------------------ keys (they can be switched off, and never act inside a field)
  const KEYS = "selfplay.keys";
  const stored = () => { try { return localStorage.getItem(KEYS); } catch { return null; } };
  const store = (value) => { try { localStorage.setItem(KEYS, value); } catch { /* not kept, then */ } };
  let keys = stored() !== "off";
  const words = one(".keys");
  if (words) {
    words.hidden = false;
    const button = one("button", words);
    const show = () => {
      button.setAttribute("aria-pressed", String(keys));
      button.textContent = keys ? "Keys are on" : "Keys are off";
    };
    button.addEventListener("click", () => { keys = !keys; store(keys ? "on" : "off"); show(); });
    show();
  }

  const follow = (selector) => { const link = one(selector); if (link) link.click(); return Boolean(link); };
  const step = (by) => {
    const links = all("a[data-step]");
    if (!links.length) return false;
    const at = links.indexOf(document.activeElement);
    const next = at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by;
    if (next < 0 || next >= links.length) return follow(by > 0 ? 'a[rel~="next"]' : 'a[rel~="prev"]');
    links[next].focus();
    (links[next].closest("article, tr") || links[next]).scrollIntoView({ block: "nearest" });
    return true;
  };
  document.addEventListener("keydown", (event) => {
    if (!keys || event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea, [contenteditable]")) return;
    let done = false;
    if (event.key === "j") done = step(1) || follow('a[rel~="next"]');
    else if (event.key === "k") done = step(-1) || follow('a[rel~="prev"]');
    else if (event.key === "u") done = follow('a[rel~="up"]');
    else if (event.key === "/") { const field = one('input[type="search"]'); if (field) { field.closest("details").open = true; field.focus(); done = true; } }
    if (done) event.preventDefault();
  });

  // ------------------------------------------------------------ filters: short addresses, sliders beside the numbers
  for (const form of all("form")) {
    form.addEventListener("submit", () => {
      for (const field of all("input[name], select[name]", form)) {
        const usual = field.name === "size" && field.value === "10";
        if (field.value === "" || usual) field.disabled = true;
      }
      setTimeout(() => { for (const field of all("[disabled]", form)) field.disabled = false; }, 0);
    });
  }
  const STEPS = 200;
  for (const set of all("fieldset.range")) {
    const low = Number(set.dataset.low), high = Number(set.dataset.high);
    const box = document.createElement("div");
    box.className = "sliders";
    all('input[type="number"]', set).forEach((field, index) => {
      const slider = document.createElement("input");
      slider.type = "range";
      slider.min = "0"; slider.max = String(STEPS); slider.step = "1";
      slider.setAttribute("aria-label", field.getAttribute("aria-label") + ", as a slider");
      const place = () => {
        const value = field.value === "" ? (index ? high : low) : Number(field.value);
        slider.value = String(Math.round((value - low) / (high - low) * STEPS));
        slider.setAttribute("aria-valuetext", field.value || "open");
      };
      slider.addEventListener("input", () => {
        const at = Number(slider.value);
        const open = index ? at === STEPS : at === 0;
        field.value = open ? "" : String(Number((low + (high - low) * at / STEPS).toPrecision(4)));
        slider.setAttribute("aria-valuetext", field.value || "open");
      });
      field.addEventListener("input", place);
      place();
      box.append(slider);
    });
    set.insertBefore(box, one(".bounds", set));
  }
  // on a narrow screen results come first: the filters are folded
  const fold = one("details.fold");
  if (fold && matchMedia("(max-width: 60rem)").matches) fold.open = false;

  // ------------------------------------------------------------ a run under way, a search under way
  const replaced = async (selector) => {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) return null;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = one(selector, page), old = one(selector);
    if (fresh && old) old.replaceWith(fresh);
    return fresh;
  };
  const live = async () => {
    const part = one("#live[data-live]");
    if (!part) return;
    if (!document.hidden && !part.contains(document.activeElement)) { try { await replaced("#live"); } catch { /* the viewer was stopped: the page stays as it is */ } }
    setTimeout(live, Number(part.dataset.live) * 1000);
  };
  setTimeout(live, 4000);
  // what is not through yet goes on by itself, as long as nobody is at something on the page
  if (one("a[data-renew]")) setTimeout(() => { if (!document.hidden && document.activeElement === document.body) location.reload(); }, 700);
})();
