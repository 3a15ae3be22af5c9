"use strict";
(() => {
  const { classes, items } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const fields = ["class", "disposition", "min", "q", "sort", "view"];
  const resting = { class: "", disposition: "", min: "0", q: "", sort: "", view: "" };
  const longer = (i) => Math.max(i.box[2], i.box[3]) * (i.nm || 1);
  const orders = {
    score: (a, b) => b.score - a.score,
    doubt: (a, b) => a.score - b.score,
    size: (a, b) => longer(b) - longer(a),
    small: (a, b) => longer(a) - longer(b),
    file: (a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : 0),
  };
  const words = { accept: "accepted", review: "for review" };
  let shown = [], at = 0, outlines = true;

  const make = (name, attributes, ...children) => {
    const vector = /^(svg|image|rect|path|text)$/.test(name);
    const node = vector
      ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const colour = (c) => `c${c % 10}`;
  const rect = ([x, y, width, height], kind) => make("rect", { x, y, width, height, class: kind });
  const three = (v) => (v >= 1000 ? Math.round(v).toString() : Number(v.toPrecision(3)).toString());
  const length = (px, nm) => {
    if (!nm) return `${three(px)} px`;
    const value = px * nm;
    if (value >= 1e6) return `${three(value / 1e6)} mm`;
    return value >= 1000 ? `${three(value / 1000)} µm` : `${three(value)} nm`;
  };
  const area = (px, nm) => {
    if (!nm) return `${three(px)} px²`;
    const value = px * nm * nm;
    return value >= 1e5 ? `${three(value / 1e6)} µm²` : `${three(value)} nm²`;
  };

  function picture(item, large) {
    const [x, y, width, height] = item.view;
    const svg = make("svg", { viewBox: item.view.join(" "), role: "img" });
    svg.append(make("image", {
      x, y, width, height, preserveAspectRatio: "none", href: `data:image/jpeg;base64,${item.jpeg}`,
    }));
    for (const other of item.others) svg.append(rect(other, `mark other ${colour(other[4])}`));
    for (const kind of ["halo", `mark ${colour(item.c)}`]) {
      if (item.rings.length) {
        const d = item.rings.map((r) => `M${r.join(" ")}Z`).join("");
        svg.append(make("path", { d, class: kind }));
      } else {
        svg.append(rect(item.box, kind));
      }
    }
    if (large && item.nm) {
      const target = width * item.nm / 4, power = 10 ** Math.floor(Math.log10(target));
      const round = [5, 2, 1].map((f) => f * power).find((v) => v <= target);
      const bar = round / item.nm, thick = height / 90;
      const left = x + width * 0.96 - bar, top = y + height * 0.95;
      svg.append(make("rect", { x: left, y: top, width: bar, height: thick, class: "scale" }));
      svg.append(make("text", {
        x: left + bar / 2, y: top - thick, class: "scale-text",
        "font-size": height / 30, "stroke-width": height / 200,
      }, length(bar, item.nm)));
    }
    return svg;
  }

  function card(item, place) {
    const name = item.file.split(/[\\/]/).pop();
    const node = make("button", { type: "button", class: `card ${colour(item.c)}`, title: item.file },
      picture(item, false),
      make("span", { class: "words" },
        make("span", { class: "label" }, classes[item.c]),
        make("span", { class: "figures" },
          make("span", {}, item.score.toFixed(2)),
          make("span", {}, length(Math.max(item.box[2], item.box[3]), item.nm)),
          make("span", { class: `chip ${item.d}` }, item.d)),
        make("span", { class: "file" }, name)));
    node.addEventListener("click", () => open(place));
    return node;
  }

  function line(item, place) {
    const [x, y, w, h] = item.box;
    const cells = [
      [item.file], [classes[item.c]], [words[item.d]], [item.score.toFixed(3), "n"],
      [x.toFixed(1), "n"], [y.toFixed(1), "n"], [length(w, item.nm), "n"], [length(h, item.nm), "n"],
      [area(item.area, item.nm), "n"],
    ];
    const row = make("tr", {}, ...cells.map(([text, kind]) => make("td", kind ? { class: kind } : {}, text)));
    row.addEventListener("click", () => open(place));
    return row;
  }

  function open(place) {
    at = (place + shown.length) % shown.length;
    const item = shown[at], [x, y, w, h] = item.box, [width, height] = item.image;
    byId("large-title").textContent = `${at + 1} of ${shown.length}: ${classes[item.c]}`;
    byId("picture").replaceChildren(picture(item, true));
    const facts = [
      ["File", item.file], ["Class", classes[item.c]], ["Disposition", words[item.d]],
      ["Score", item.score.toFixed(3)], ["Width", length(w, item.nm)], ["Height", length(h, item.nm)],
      ["Area", area(item.area, item.nm)], ["Position", `${x.toFixed(1)}, ${y.toFixed(1)} px`],
      ["Box", `${w.toFixed(1)} × ${h.toFixed(1)} px`], ["Image", `${width} × ${height} px`],
      ["Pixel size", item.nm ? `${three(item.nm)} nm` : "not known"],
    ];
    byId("details").replaceChildren(...facts.flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, v)]));
    const map = make("svg", { viewBox: `0 0 ${width} ${height}`, class: colour(item.c) });
    map.append(rect([0, 0, width, height], "whole"), rect(item.view, "seen"), rect(item.box, "here"));
    byId("map").replaceChildren(map);
    if (!byId("large").open) byId("large").showModal();
  }

  const state = () => Object.fromEntries(fields.map((f) => [f, byId(f).value]));

  function draw() {
    const now = state();
    const wanted = now.q.toLowerCase(), least = Number(now.min);
    byId("min-text").textContent = least.toFixed(2);
    shown = items.filter((i) =>
      (!now.class || classes[i.c] === now.class) && (!now.disposition || i.d === now.disposition) &&
      i.score >= least && (!wanted || i.file.toLowerCase().includes(wanted)));
    if (orders[now.sort]) shown.sort(orders[now.sort]);
    const table = now.view === "table";
    byId("gallery").hidden = table;
    byId("table").hidden = !table;
    byId("gallery").replaceChildren(...(table ? [] : shown.map(card)));
    byId("table").querySelector("tbody").replaceChildren(...(table ? shown.map(line) : []));
    byId("count").textContent = `${shown.length} shown`;
  }

  function remember() {
    const changed = Object.entries(state()).filter(([f, value]) => value !== resting[f]);
    const hash = new URLSearchParams(changed).toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  function restore() {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const f of fields) {
      byId(f).value = asked.has(f) ? asked.get(f) : resting[f];
      if (byId(f).tagName === "SELECT" && byId(f).selectedIndex < 0) byId(f).value = "";
    }
    draw();
  }

  const present = new Set(items.map((i) => i.c));
  classes.forEach((name, c) => present.has(c) && byId("class").append(make("option", { value: name }, name)));
  byId("filters").addEventListener("input", () => { draw(); remember(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => { draw(); remember(); }));
  for (const bar of document.querySelectorAll(".bar[data-class]")) {
    bar.addEventListener("click", () => {
      byId("class").value = byId("class").value === bar.dataset.class ? "" : bar.dataset.class;
      if (byId("class").selectedIndex < 0) byId("class").value = "";
      draw(); remember();
      byId("defects").scrollIntoView({ behavior: "smooth" });
    });
  }
  const toggle = () => {
    outlines = !outlines;
    byId("boxes").setAttribute("aria-pressed", outlines);
    byId("picture").classList.toggle("plain", !outlines);
  };
  byId("boxes").addEventListener("click", toggle);
  byId("before").addEventListener("click", () => open(at - 1));
  byId("after").addEventListener("click", () => open(at + 1));
  byId("close").addEventListener("click", () => byId("large").close());
  byId("large").addEventListener("click", (event) => event.target === byId("large") && byId("large").close());
  byId("large").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") open(at - 1);
    else if (event.key === "ArrowRight") open(at + 1);
    else if (event.key === "o") toggle();
  });
  addEventListener("hashchange", restore);
  restore();
})();
