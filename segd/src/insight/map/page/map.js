"use strict";
// Filters, search and details of the map that the page holds. Texts of the map become text nodes only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { nodes, edges } = data.map;
  const strands = data.strands;
  const svg = document.querySelector("#view svg");
  const by = (selector, key) => {
    const all = [];
    for (const e of svg.querySelectorAll(selector)) (all[e.dataset[key]] ||= []).push(e);
    return all;
  };
  const nodeParts = by(".node", "node");
  const strandParts = by(".strand", "strand");
  for (const e of svg.querySelectorAll("[data-of]")) strandParts[e.dataset.of].push(e);
  const strandOf = [];
  strands.forEach((s, i) => s.edges.forEach((e) => { strandOf[e] = i; }));

  const el = (tag, props = {}, ...children) => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(props)) {
      if (k === "onclick") e.addEventListener("click", v);
      else if (k in e) e[k] = v;
      else e.setAttribute(k, v);
    }
    e.append(...children.filter((c) => c !== null && c !== undefined && c !== ""));
    return e;
  };
  const scaled = (n, step, units) => {
    let u = 0;
    while (n >= step && u + 1 < units.length) { n /= step; u += 1; }
    return (u === 0 || n >= 10 ? Math.floor(n) : Math.floor(n * 10) / 10) + units[u];
  };
  const count = (n) => scaled(n, 1000, ["", "k", "M", "G", "T"]);
  const bytes = (n) => scaled(n, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
  const time = (t) => t.slice(0, 10) + " " + t.slice(11, 19);
  const things = (n, one) => n + " " + one + (n === 1 ? "" : "s");
  const verdictMark = (v) => el("span", { className: "verdict " + v }, v);
  const who = (p) =>
    [p.host, p.address && (p.host ? "(" + p.address + ")" : p.address), p.workload && "as " + p.workload,
      p.process, p.unit && "[" + p.unit + "]"].filter(Boolean).join(" ");

  // What a search looks at, of each edge.
  const texts = edges.map((e) => {
    const parties = [...e.clients.most, ...e.servers.most].map((p) => who(p));
    return [e.from, e.to, e.service, e.verdict, ...e.ports, ...e.rules, ...e.reasons, ...parties].join("\n").toLowerCase();
  });
  const words = edges.map((_, i) => strands[strandOf[i]].word);

  const state = { q: "", verdicts: new Set(), zones: new Set(), changes: new Set(), node: null, strand: null };
  const boxes = (name) => [...document.querySelectorAll(`input[name=${name}]`)];
  let shown = edges.map(() => true);
  let sorted = { key: "flows", down: true };

  const fits = (e, i) =>
    state.verdicts.has(e.verdict) &&
    (state.changes.size === 0 || state.changes.has(words[i])) &&
    (state.zones.size === 0 || state.zones.has(e.from) || state.zones.has(e.to)) &&
    state.q.split(/\s+/).every((w) => texts[i].includes(w.toLowerCase()));

  function apply() {
    state.q = document.getElementById("q").value.trim();
    for (const name of ["verdicts", "zones", "changes"]) {
      state[name] = new Set(boxes(name).filter((b) => b.checked).map((b) => b.value));
    }
    shown = edges.map(fits);
    const alive = new Set();
    strands.forEach((s, i) => {
      const on = s.edges.some((e) => shown[e]);
      if (on) { alive.add(s.from); alive.add(s.to); }
      for (const part of strandParts[i]) part.classList.toggle("off", !on);
    });
    nodes.forEach((_, i) => nodeParts[i].forEach((part) => part.classList.toggle("off", !alive.has(i))));
    const kept = shown.filter(Boolean).length;
    document.getElementById("status").textContent =
      `${alive.size} of ${things(nodes.length, "zone")}, ${kept} of ${things(edges.length, "edge")}`;
    const zones = document.getElementById("zones-chosen");
    if (zones) zones.textContent = state.zones.size === 0 ? "all" : [...state.zones].join(", ").slice(0, 40);
    table();
    choose();
  }

  // Lights up a node's or a line's surroundings.
  function light(node, strand) {
    const hot = new Set(), near = new Set();
    strands.forEach((s, i) => {
      if (!s.edges.some((e) => shown[e])) return;
      if (i === strand || (node !== null && (s.from === node || s.to === node))) {
        hot.add(i); near.add(s.from); near.add(s.to);
      }
    });
    if (node !== null) near.add(node);
    svg.classList.toggle("focus", node !== null || strand !== null);
    strands.forEach((_, i) => strandParts[i].forEach((p) => p.classList.toggle("hot", hot.has(i))));
    nodes.forEach((_, i) => nodeParts[i].forEach((p) => {
      p.classList.toggle("hot", near.has(i));
      p.classList.toggle("chosen", i === node);
    }));
  }

  const parties = (title, all) =>
    all.most.length + all.more + all.unrecorded === 0 ? [] : [
      el("h3", {}, title),
      el("ul", {},
        ...all.most.map((p) => el("li", {}, (who(p) || "not recorded") + " · " + things(p.flows, "flow"))),
        all.more ? el("li", {}, `… and ${all.more} more`) : null,
        all.unrecorded ? el("li", {}, `… and about ${all.unrecorded} further addresses that were too many to record`) : null),
    ];
  const pair = (name, value) => (value ? [el("dt", {}, name), el("dd", {}, value)] : []);

  function edgeDetails(i) {
    const e = edges[i], s = strands[strandOf[i]];
    return el("article", {},
      el("h2", {}, e.service, " ", verdictMark(e.verdict)),
      s.told ? el("p", {}, el("strong", {}, s.sign + " " + s.told)) : null,
      el("dl", {},
        ...pair("flows", e.flows.toLocaleString("en") +
          (e.flows_before !== undefined && words[i] !== "removed" ? ` (before: ${e.flows_before.toLocaleString("en")})` : "")),
        ...pair("bytes", `${bytes(e.bytes.to_server)} to the server, ${bytes(e.bytes.to_client)} back`),
        ...pair("ports", e.ports.join(", ")),
        ...pair("first", time(e.first) + " UTC"),
        ...pair("last", time(e.last) + " UTC"),
        ...pair("rule", e.rules.join(", ")),
        ...pair("why", e.reasons.join(", "))),
      ...parties("Clients", e.clients), ...parties("Servers", e.servers));
  }

  function details(node, strand) {
    const aside = document.getElementById("details");
    const content = [];
    if (strand !== null) {
      const s = strands[strand];
      content.push(el("h2", {}, nodes[s.from].name + " → " + nodes[s.to].name));
      content.push(...s.edges.filter((e) => shown[e]).map(edgeDetails));
    } else if (node !== null) {
      const n = nodes[node];
      const kind = { zone: "zone", built_in: "built-in zone", workload: "workload" }[n.kind];
      content.push(el("h2", {}, n.name), el("p", { className: "hint" }, kind + (n.zone ? " of zone " + n.zone : "")));
      for (const [title, end, other] of [["Begins flows to", "from", "to"], ["Is reached from", "to", "from"]]) {
        const all = strands.map((s, i) => i).filter((i) => strands[i][end] === node && strands[i].edges.some((e) => shown[e]));
        content.push(el("h3", {}, `${title} (${things(new Set(all.map((i) => strands[i][other])).size, "zone")})`));
        content.push(el("ul", {}, ...all.map((i) => {
          const s = strands[i];
          const services = s.edges.filter((e) => shown[e]).map((e) => edges[e].service);
          return el("li", {},
            el("button", { type: "button", className: "link", onclick: () => pick(null, i) }, nodes[s[other]].name), " ",
            services.slice(0, 6).join(", ") + (services.length > 6 ? ` +${services.length - 6}` : "") + " ",
            verdictMark(s.verdict), s.told ? ` ${s.sign} ${s.told}` : "");
        })));
      }
    } else {
      content.push(el("h2", {}, "Details"),
        el("p", { className: "hint" }, "Point at a zone or a line; click, or Tab and Enter, to keep it. Escape lets go."),
        el("p", { className: "hint" }, "Lines: colour and dashes by verdict, width by the logarithm of flows. / goes to the search, " +
          "Ctrl and the wheel change the size."));
    }
    aside.replaceChildren(...content);
  }

  // What is chosen, unless something is pointed at.
  function choose(node = state.node, strand = state.strand) {
    light(node, strand);
    details(node, strand);
    for (const row of document.querySelectorAll("tbody tr")) {
      row.setAttribute("aria-selected", String(state.strand !== null && strandOf[row.dataset.edge] === state.strand));
    }
  }

  function pick(node, strand) {
    [state.node, state.strand] = [node, strand];
    choose();
    remember();
  }

  const columns = [
    ["from", "From"], ["to", "To"], ["service", "Service"], ["verdict", "Verdict"], ["change", "Change"],
    ["flows", "Flows"], ["bytes", "Bytes"], ["first", "First seen (UTC)"], ["last", "Last seen (UTC)"],
  ].filter(([key]) => key !== "change" || data.map.compared);
  const numeric = new Set(["flows", "bytes"]);
  const value = (e, i, key) =>
    key === "bytes" ? e.bytes.to_server + e.bytes.to_client : key === "change" ? words[i] : e[key];

  function table() {
    const head = document.querySelector("thead tr");
    head.replaceChildren(...columns.map(([key, title]) => {
      const now = sorted.key === key ? (sorted.down ? "descending" : "ascending") : "none";
      const arrow = { descending: " ▾", ascending: " ▴", none: "" }[now];
      const th = el("th", { scope: "col", className: numeric.has(key) ? "number" : "" },
        el("button", { type: "button", onclick: () => {
          sorted = { key, down: sorted.key === key ? !sorted.down : numeric.has(key) };
          table();
          choose();
          head.querySelectorAll("button")[columns.findIndex(([k]) => k === key)].focus();
        } }, title + arrow));
      th.setAttribute("aria-sort", now);
      return th;
    }));
    const order = edges.map((_, i) => i).filter((i) => shown[i]);
    order.sort((a, b) => {
      const [x, y] = [value(edges[a], a, sorted.key), value(edges[b], b, sorted.key)];
      return (x < y ? -1 : x > y ? 1 : a - b) * (sorted.down ? -1 : 1);
    });
    document.querySelector("tbody").replaceChildren(...order.map((i) => {
      const e = edges[i], s = strands[strandOf[i]];
      const cells = columns.map(([key]) => {
        const text = {
          from: () => el("button", { type: "button", className: "link", onclick: () => pick(null, strandOf[i]) }, e.from),
          verdict: () => verdictMark(e.verdict),
          change: () => (s.told ? s.sign + " " + s.told : ""),
          flows: () => e.flows.toLocaleString("en"),
          bytes: () => bytes(e.bytes.to_server + e.bytes.to_client),
          first: () => time(e.first),
          last: () => time(e.last),
        }[key];
        return el("td", { className: numeric.has(key) ? "number" : "" }, text ? text() : e[key]);
      });
      const row = el("tr", {}, ...cells);
      row.dataset.edge = i;
      return row;
    }));
  }

  // Filters and choice are in the address, so that a view can be sent to somebody.
  function remember() {
    const p = new URLSearchParams();
    if (state.q) p.set("q", state.q);
    for (const name of ["verdicts", "zones", "changes"]) {
      const all = boxes(name), on = all.filter((b) => b.checked);
      if (name === "verdicts" ? on.length < all.length : on.length > 0) p.set(name, on.map((b) => b.value).join(","));
    }
    if (state.node !== null) p.set("zone", nodes[state.node].name);
    if (state.strand !== null) {
      const s = strands[state.strand];
      p.set("edge", [nodes[s.from].name, nodes[s.to].name, s.verdict].join(","));
    }
    const hash = p.toString();
    history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
  }

  function recall() {
    const p = new URLSearchParams(location.hash.slice(1));
    document.getElementById("q").value = p.get("q") ?? "";
    for (const name of ["verdicts", "zones", "changes"]) {
      const wanted = p.has(name) ? p.get(name).split(",") : null;
      for (const b of boxes(name)) b.checked = wanted ? wanted.includes(b.value) : name === "verdicts";
    }
    const named = (name) => nodes.findIndex((n) => n.name === name);
    const zone = named(p.get("zone"));
    const [from, to, verdict] = (p.get("edge") ?? "").split(",");
    const strand = strands.findIndex((s) => s.from === named(from) && s.to === named(to) && s.verdict === verdict);
    [state.node, state.strand] = [zone < 0 ? null : zone, strand < 0 ? null : strand];
    apply();
  }

  // Size.
  const view = document.getElementById("view");
  const [width, height] = [Number(svg.dataset.width), Number(svg.dataset.height)];
  let scale = 1;
  function zoom(to) {
    const middle = [(view.scrollLeft + view.clientWidth / 2) / scale, (view.scrollTop + view.clientHeight / 2) / scale];
    scale = Math.min(4, Math.max(0.2, to));
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
    view.scrollLeft = middle[0] * scale - view.clientWidth / 2;
    view.scrollTop = middle[1] * scale - view.clientHeight / 2;
  }
  const fit = () => zoom(Math.min(1.6, view.clientWidth / width, Math.max(460, innerHeight - 150) / height));
  document.getElementById("bigger").addEventListener("click", () => zoom(scale * 1.25));
  document.getElementById("smaller").addEventListener("click", () => zoom(scale / 1.25));
  document.getElementById("fit").addEventListener("click", fit);
  view.addEventListener("wheel", (e) => {
    if (!e.ctrlKey && !e.metaKey) return;
    e.preventDefault();
    zoom(scale * Math.exp(-e.deltaY / 400));
  }, { passive: false });
  let grip = null;
  view.addEventListener("pointerdown", (e) => {
    if (e.button === 0 && e.pointerType === "mouse") grip = [e.clientX + view.scrollLeft, e.clientY + view.scrollTop];
  });
  view.addEventListener("pointermove", (e) => {
    if (grip === null) return;
    view.scrollLeft = grip[0] - e.clientX;
    view.scrollTop = grip[1] - e.clientY;
  });
  for (const end of ["pointerup", "pointerleave"]) view.addEventListener(end, () => { grip = null; });

  // Pointing, choosing, keys.
  const over = (target) => {
    const part = target.closest("[data-node],[data-strand],[data-of]");
    if (!part || !svg.contains(part)) return null;
    return part.dataset.node !== undefined ? [Number(part.dataset.node), null] : [null, Number(part.dataset.strand ?? part.dataset.of)];
  };
  svg.addEventListener("pointerover", (e) => {
    const at = over(e.target);
    if (state.node === null && state.strand === null) choose(...(at ?? [null, null]));
  });
  svg.addEventListener("pointerleave", () => choose());
  svg.addEventListener("click", (e) => pick(...(over(e.target) ?? [null, null])));
  svg.addEventListener("keydown", (e) => {
    if (e.key !== "Enter" && e.key !== " ") return;
    const at = over(e.target);
    if (at) { e.preventDefault(); pick(...at); }
  });
  svg.addEventListener("focusin", (e) => {
    const at = over(e.target);
    if (at && state.node === null && state.strand === null) choose(...at);
  });
  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape") pick(null, null);
    if (e.key === "/" && !["INPUT", "TEXTAREA"].includes(document.activeElement.tagName)) {
      e.preventDefault();
      document.getElementById("q").focus();
    }
  });
  nodes.forEach((n, i) => nodeParts[i].forEach((part) => {
    part.setAttribute("tabindex", "0");
    part.setAttribute("role", "button");
    part.setAttribute("aria-label", n.name);
  }));
  const form = document.querySelector("form");
  form.addEventListener("input", () => { apply(); remember(); });
  form.addEventListener("submit", (e) => e.preventDefault());
  document.getElementById("reset").addEventListener("click", () => {
    history.replaceState(null, "", location.pathname + location.search);
    recall();
  });
  addEventListener("hashchange", recall);
  addEventListener("beforeprint", () => zoom(1));
  for (const e of document.querySelectorAll(".scripted")) e.hidden = false;
  recall();
  fit();
  document.documentElement.dataset.ready = "true";
})();
