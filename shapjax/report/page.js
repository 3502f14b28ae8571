"use strict";

(() => {
  const QUERY = "query";
  const RETRIEVED = "retrieved";
  const SIDES = [QUERY, RETRIEVED];
  const NICE = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];
  /* Parts weaker than this share of the strongest pair stay pale instead of filling the scale. */
  const WEAK = 0.1;
  /* Pixels that a pressed pointer moves before it draws a box. */
  const DRAG = 6;
  const MOST_PAIRS = 100;

  const data = JSON.parse(document.getElementById("data").textContent);
  const decode = (text, Kind) =>
    new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const colors = decode(data.colors, Uint8Array);
  const middle = (colors.length / 3 - 1) / 2;
  const maps = data.maps.map(openMap);
  const methods = data.methods.map(openMethod);
  let method = methods[0];

  /* side: the picture that a selection is on, or null. The selection is a part (player) or a box
     (left, top, right, bottom in fractions). held: it stays while the pointer leaves. probe: a
     part of the other picture that is pointed at meanwhile. */
  const nothing = { side: null, player: null, box: null, held: false, probe: null };
  let state = { ...nothing };
  let drawn = false;

  const scale = document.querySelector(".scale");
  const shared = scale.querySelector(".shared");
  const sharedBox = shared.querySelector("input");
  const links = document.querySelector(".links");
  const top = document.querySelector(".top");
  const slider = top.querySelector("input");
  const values = document.querySelector(".values");
  const stages = Object.fromEntries(SIDES.map((side) => [side, openStage(side)]));
  const cards = methods.length > 1 ? methods.map(openCard) : [];

  /* What the page is given. */

  function openMap({ shape: [height, width], labels }) {
    const own = decode(labels, Int32Array);
    const count = own.reduce((largest, label) => Math.max(largest, label), -1) + 1;
    const areas = new Float64Array(count);
    const xs = new Float64Array(count);
    const ys = new Float64Array(count);
    own.forEach((label, i) => {
      areas[label] += 1;
      xs[label] += (i % width) + 0.5;
      ys[label] += Math.floor(i / width) + 0.5;
    });
    const mean = (sums, size) => sums.map((sum, label) => sum / areas[label] / size);
    return { height, width, labels: own, areas, x: mean(xs, width), y: mean(ys, height) };
  }

  function optional(text) {
    return text ? decode(text, Float32Array) : null;
  }

  function openMethod(given) {
    const faces = Object.fromEntries(
      SIDES.map((side) => {
        const face = given[side];
        if (!face) return [side, face];
        const heat = decode(face.heat, Float32Array);
        return [side, { map: maps[face.map], heat, errors: optional(face.errors) }];
      }),
    );
    const cross = optional(given.cross);
    return {
      ...faces,
      name: given.method,
      order: given.order,
      cross,
      errors: optional(given.errors),
      crossMost: cross ? most(cross) : 0,
      heatMost: Math.max(...SIDES.map((side) => (faces[side] ? most(faces[side].heat) : 0))),
      strongest: null,
    };
  }

  function openStage(name) {
    const figure = document.getElementById(name);
    const picture = figure.querySelector(".picture");
    return {
      name,
      picture,
      readout: figure.querySelector(".readout"),
      svg: picture.querySelector("svg"),
      paths: picture.querySelectorAll("path"),
      painter: painter(picture.querySelector("canvas")),
      cursor: { x: 0.5, y: 0.5 },
      outlined: "",
    };
  }

  /* A method as a small pair of pictures that follows what is pointed at, and a button. */
  function openCard(own, place) {
    const card = document.createElement("button");
    card.type = "button";
    card.className = "card";
    const pictures = document.createElement("span");
    pictures.className = "small";
    const painters = SIDES.map((side) => {
      const picture = document.createElement("span");
      picture.className = "picture";
      picture.style.setProperty("--ratio", `var(--${side}-ratio)`);
      const image = document.createElement("img");
      image.src = stages[side].picture.querySelector("img").src;
      image.alt = "";
      const canvas = document.createElement("canvas");
      picture.append(image, canvas);
      pictures.append(picture);
      return [side, { picture, painter: painter(canvas) }];
    });
    const name = document.createElement("b");
    name.textContent = own.name;
    const range = document.createElement("i");
    const caption = document.createElement("span");
    caption.className = "caption";
    caption.append(name, range);
    card.append(pictures, caption);
    card.addEventListener("click", () => show(place));
    document.querySelector(".cards").append(card);
    return { card, method: own, range, ...Object.fromEntries(painters) };
  }

  function painter(canvas) {
    const context = canvas.getContext("2d");
    let image = null;
    let pixels = null;
    let last = [];
    return (map, numbers, limit) => {
      const next = [map, numbers, limit];
      if (next.every((given, i) => given === last[i])) return;
      last = next;
      const { labels, width, height } = map;
      if (image === null || image.width !== width || image.height !== height) {
        [canvas.width, canvas.height] = [width, height];
        image = context.createImageData(width, height);
        pixels = new Uint32Array(image.data.buffer);
      }
      const table = Uint32Array.from(numbers, (value) => {
        const [red, green, blue] = color(value, limit);
        return (255 << 24) | (blue << 16) | (green << 8) | red;
      });
      for (let i = 0; i < labels.length; i += 1) pixels[i] = table[labels[i]];
      context.putImageData(image, 0, 0);
    };
  }

  /* Numbers. */

  function most(numbers) {
    return numbers.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
  }

  function argmax(numbers) {
    return numbers.reduce((best, value, i) => (value > numbers[best] ? i : best), 0);
  }

  function clamp(value) {
    return Math.max(-1, Math.min(1, value));
  }

  function color(value, limit) {
    const at = 3 * (Math.round(clamp(value / limit) * middle) + middle);
    return colors.subarray(at, at + 3);
  }

  function scaleLimit(largest) {
    if (!(largest > 0)) return 1;
    const decade = 10 ** Math.floor(Math.log10(largest));
    return (NICE.find((n) => largest <= n * decade * (1 + 1e-6)) ?? 10) * decade;
  }

  function signed(value, digits = 3) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size < 1e-4 ? size.toExponential(digits - 1) : size.toPrecision(digits);
    return (value < 0 ? "−" : "+") + text.replace("-", "−");
  }

  function tick(value) {
    const text = String(Number(Math.abs(value).toPrecision(3)));
    return (value < 0 ? "−" : "+") + text.replace("-", "−");
  }

  /* Selections. */

  function other(name) {
    return name === QUERY ? RETRIEVED : QUERY;
  }

  function pair(own, side, player, counterpart) {
    const [q, r] = side === QUERY ? [player, counterpart] : [counterpart, player];
    return own.cross[q * own.retrieved.heat.length + r];
  }

  function cell(fraction, count) {
    return Math.max(0, Math.min(count - 1, Math.floor(fraction * count)));
  }

  function labelAt({ labels, width, height }, { x, y }) {
    return labels[cell(y, height) * width + cell(x, width)];
  }

  /* Parts that the selection covers with the share of each, for a method's own parts. */
  function selected(own) {
    const face = state.side && own[state.side];
    if (!face) return null;
    if (state.box) return boxShares(face.map, state.box);
    if (state.player === null) return null;
    if (own === method) return [[state.player, 1]];
    return [[labelAt(face.map, stages[state.side].cursor), 1]];
  }

  function covered(low, high, size) {
    return Float64Array.from({ length: size }, (_, i) =>
      Math.max(0, Math.min(1, Math.min(high * size, i + 1) - Math.max(low * size, i))),
    );
  }

  function boxShares({ labels, width, height, areas }, [left, upper, right, lower]) {
    const across = covered(left, right, width);
    const down = covered(upper, lower, height);
    const sums = new Float64Array(areas.length);
    down.forEach((rowShare, y) => {
      if (rowShare === 0) return;
      for (let x = 0; x < width; x += 1) sums[labels[y * width + x]] += rowShare * across[x];
    });
    const found = [];
    sums.forEach((sum, label) => sum > 0 && found.push([label, sum / areas[label]]));
    return found;
  }

  /* What the selected parts have to do with every part of the other picture. */
  function arriving(own, parts) {
    const found = new Float64Array(own[other(state.side)].heat.length);
    for (const [player, share] of parts) {
      for (let i = 0; i < found.length; i += 1) found[i] += share * pair(own, state.side, player, i);
    }
    return found;
  }

  /* Everything that a method shows, derived from the state alone. */
  function view(own) {
    const parts = selected(own);
    const credit =
      parts && parts.reduce((sum, [player, share]) => sum + share * own[state.side].heat[player], 0);
    if (!parts || !own.cross) {
      return { pointing: false, parts, credit, limit: scaleLimit(own.heatMost), value: credit };
    }
    const numbers = arriving(own, parts);
    const strongest = argmax(numbers);
    const counterpart = numbers[strongest] > 0 ? strongest : null;
    const shown = (own === method ? state.probe : null) ?? counterpart;
    const largest = most(numbers);
    const whole = sharedBox.checked ? own.crossMost : WEAK * own.crossMost;
    return {
      pointing: true,
      parts,
      credit,
      numbers,
      counterpart,
      shown,
      limit: scaleLimit(sharedBox.checked && !state.box ? whole : Math.max(largest, whole)),
      value: shown === null ? null : numbers[shown],
    };
  }

  /* The strongest pairs, of the selection or of all, as [query part, retrieved part, value]. */
  function topPairs(now, count) {
    if (!method.cross) return [];
    if (now.pointing) {
      const found = now.parts.flatMap(([player, share]) =>
        Array.from(method[other(state.side)].heat, (_, i) => {
          const value = share * pair(method, state.side, player, i);
          return state.side === QUERY ? [player, i, value] : [i, player, value];
        }),
      );
      return found.sort(bySize).slice(0, count);
    }
    method.strongest ??= strongestOf(method);
    return method.strongest.slice(0, count);
  }

  function bySize(a, b) {
    return Math.abs(b[2]) - Math.abs(a[2]);
  }

  function strongestOf({ cross, retrieved }) {
    const sizes = cross.map(Math.abs).sort();
    const least = sizes[Math.max(0, sizes.length - MOST_PAIRS)];
    const found = [];
    cross.forEach((value, i) => {
      const n = retrieved.heat.length;
      if (Math.abs(value) >= least) found.push([Math.floor(i / n), i % n, value]);
    });
    return found.sort(bySize).slice(0, MOST_PAIRS);
  }

  /* Drawing. */

  function draw() {
    const now = view(method);
    for (const side of SIDES) drawSide(stages[side], now);
    drawScale(now);
    drawLinks(now);
    drawValues(now);
    cards.forEach(drawCard);
    drawn = true;
  }

  function drawSide(stage, now) {
    const face = method[stage.name];
    const mine = stage.name === state.side;
    const plain = !face || (now.pointing && mine);
    if (!plain) stage.painter(face.map, now.pointing ? now.numbers : face.heat, now.limit);
    stage.picture.classList.toggle("heated", !plain);
    stage.picture.classList.toggle("held", mine && state.held);
    stage.picture.classList.toggle("idle", !face);
    outline(stage, face, mine ? state.player : now.pointing ? now.shown : null, mine && state.box);
    stage.readout.textContent = !face ? "" : mine ? ownWords(face, now) : otherWords(face, now);
  }

  function drawCard(card) {
    const own = card.method;
    const now = view(own);
    card.card.setAttribute("aria-pressed", String(own === method));
    card.range.textContent = `±${tick(now.limit).slice(1)}`;
    for (const side of SIDES) {
      const face = own[side];
      const plain = !face || (now.pointing && side === state.side);
      if (!plain) card[side].painter(face.map, now.pointing ? now.numbers : face.heat, now.limit);
      card[side].picture.classList.toggle("heated", !plain);
    }
  }

  function outline(stage, face, player, box) {
    const { map } = face ?? {};
    const next = box ? `box ${box}` : face && player !== null ? `${maps.indexOf(map)} ${player}` : "";
    if (stage.outlined === next) return;
    stage.outlined = next;
    let path = "";
    if (box && next) {
      const [left, upper, right, lower] = box;
      stage.svg.setAttribute("viewBox", "0 0 1 1");
      path = `M${left} ${upper}H${right}V${lower}H${left}Z`;
    } else if (next) {
      stage.svg.setAttribute("viewBox", `0 0 ${map.width} ${map.height}`);
      path = border(map, player);
    }
    stage.paths.forEach((element) => element.setAttribute("d", path));
  }

  /* Path along the pixel edges where the part meets anything else. */
  function border({ labels, width, height }, player) {
    const inside = (x, y) =>
      x >= 0 && y >= 0 && x < width && y < height && labels[y * width + x] === player;
    const steps = [];
    for (let y = 0; y <= height; y += 1) {
      for (let x = 0; x <= width; x += 1) {
        if (inside(x, y) !== inside(x - 1, y)) steps.push(`M${x} ${y}v1`);
        if (inside(x, y) !== inside(x, y - 1)) steps.push(`M${x} ${y}h1`);
      }
    }
    return steps.join("");
  }

  function ownWords(face, now) {
    const what = state.box
      ? `box over ${now.parts.length} ${now.parts.length === 1 ? "part" : "parts"}`
      : `part ${state.player}`;
    const words = `${what}: credit ${signed(now.credit)}`;
    return state.held && !state.box ? `${words}, held` : words;
  }

  function otherWords(face, now) {
    if (!now.pointing) {
      const total = face.heat.reduce((sum, value) => sum + value, 0);
      return `${face.heat.length} parts, credit ${signed(total)} in all`;
    }
    if (state.probe !== null) return `with part ${state.probe}: ${signed(now.value)}`;
    if (now.counterpart === null) return "no part here speaks for the match";
    return `strongest with part ${now.counterpart}: ${signed(now.value)}`;
  }

  function quantity(now) {
    if (!now.pointing) return "Credit of each part, in units of similarity";
    const what = state.box ? "the box" : `${state.side} part ${state.player}`;
    return `Interaction with ${what}, in units of similarity`;
  }

  function drawScale(now) {
    scale.querySelector(".low").textContent = tick(-now.limit);
    scale.querySelector(".high").textContent = tick(now.limit);
    scale.querySelector(".quantity").textContent = quantity(now);
    const needle = scale.querySelector(".needle");
    needle.hidden = now.value === null;
    if (now.value !== null) needle.style.left = `${50 + 50 * clamp(now.value / now.limit)}%`;
  }

  function drawRamp() {
    const canvas = scale.querySelector("canvas");
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, 1);
    for (let i = 0; i < canvas.width; i += 1) {
      image.data.set([...colors.subarray(3 * i, 3 * i + 3), 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }

  /* The strongest pairs as lines from picture to picture, wide and strong as their values. */
  function drawLinks(now) {
    const found = topPairs(now, Number(slider.value));
    const frame = links.getBoundingClientRect();
    links.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    const boxes = SIDES.map((side) => stages[side].picture.getBoundingClientRect());
    const largest = found.length ? Math.abs(found[0][2]) : 1;
    const elements = found.reverse().flatMap(([q, r, value]) => {
      const ends = [q, r].map((player, i) => {
        const { map } = method[SIDES[i]];
        return [
          boxes[i].left - frame.left + map.x[player] * boxes[i].width,
          boxes[i].top - frame.top + map.y[player] * boxes[i].height,
        ].map((at) => at.toFixed(1));
      });
      const share = Math.abs(value) / largest;
      const path = `M${ends[0]}L${ends[1]}`;
      const tint = `rgb(${color(Math.sign(value), 1)})`;
      return [line(path, "halo", 2 + 2.5 * share), line(path, "pair", 0.5 + 2.5 * share, tint)];
    });
    links.replaceChildren(...elements);
  }

  function line(path, kind, width, tint) {
    const element = document.createElementNS(links.namespaceURI, "path");
    element.setAttribute("class", kind);
    element.setAttribute("d", path);
    element.setAttribute("stroke-width", width.toFixed(2));
    if (tint) element.setAttribute("stroke", tint);
    return element;
  }

  /* The numbers themselves, for those who ask. */
  function drawValues(now) {
    if (!values.open) return;
    const rows = method.cross
      ? topPairs(now, Math.max(10, Number(slider.value)))
      : SIDES.filter((side) => method[side]).flatMap((side) =>
          Array.from(method[side].heat, (value, i) => [side, i, value])
            .sort(bySize)
            .slice(0, 10),
        );
    const heads = method.cross
      ? ["query part", "retrieved part", "interaction"]
      : ["picture", "part", "credit"];
    /* Of a part that a box covers partly the error is the same share as the value. */
    const error = ([a, b, value]) => {
      if (!method.cross) return method[a].errors?.[b];
      const at = a * method.retrieved.heat.length + b;
      return method.errors?.[at] * (method.cross[at] ? value / method.cross[at] : 1);
    };
    const known = rows.some((row) => error(row) >= 0);
    if (known) heads.push("standard error");
    values.querySelector("thead").replaceChildren(tableRow("th", heads));
    const cells = rows.map((row) => {
      const [a, b, value] = row;
      const end = known ? [error(row).toPrecision(2)] : [];
      return tableRow("td", [a, b, signed(value, 7), ...end]);
    });
    values.querySelector("tbody").replaceChildren(...cells);
  }

  function tableRow(kind, texts) {
    const row = document.createElement("tr");
    row.append(
      ...texts.map((text) => {
        const element = document.createElement(kind);
        if (kind === "th") element.scope = "col";
        element.textContent = text;
        return element;
      }),
    );
    return row;
  }

  /* Changes. */

  /* Many pointer events may come between two frames; one drawing serves them all. */
  function change(next) {
    const same = Object.keys(next).every((key) => next[key] === state[key]);
    if (same) return;
    state = { ...state, ...next };
    redraw();
  }

  function redraw() {
    if (drawn) requestAnimationFrame(draw);
    drawn = false;
  }

  function point(stage, player) {
    if (!state.held) {
      change({ side: stage.name, player, box: null, probe: null });
    } else if (method.cross !== null && state.side !== stage.name) {
      change({ probe: player });
    }
  }

  /* Only what this picture chose goes: a tap on one picture takes the focus from the other. */
  function leave(stage) {
    if (state.side !== stage.name) change({ probe: null });
    else if (!state.held) change(nothing);
  }

  function toggleHold(stage, player) {
    const release = state.held && state.side === stage.name && state.player === player;
    change({ side: stage.name, player, box: null, held: !release, probe: null });
  }

  function hold(stage, box) {
    change({ side: stage.name, player: null, box, held: true, probe: null });
  }

  /* Another method takes the large pictures; what is selected stays where it was. */
  function show(place) {
    if (!methods[place]) throw new RangeError(`no method ${place}`);
    method = methods[place];
    state = { ...state, probe: null };
    const face = state.side && method[state.side];
    if (state.side && !face) state = { ...nothing };
    else if (face && state.player !== null) {
      state.player = labelAt(face.map, stages[state.side].cursor);
    }
    SIDES.forEach((side) => tend(stages[side]));
    fit();
    draw();
  }

  /* What belongs to the shown method alone: its controls and its hint. */
  function fit() {
    shared.hidden = top.hidden = method.cross === null;
    if (method.cross) slider.max = Math.min(MOST_PAIRS, method.cross.length);
    top.querySelector("output").textContent = slider.value;
    document.querySelector(".hint").textContent = hint();
    for (const row of document.querySelectorAll(".methods tbody tr")) {
      row.classList.toggle("shown", Number(row.dataset.place) === methods.indexOf(method));
    }
  }

  /* Pointer and keys. */

  function fractionAt(stage, event) {
    const box = stage.picture.getBoundingClientRect();
    const within = (at, length) => Math.max(0, Math.min(1, at / length));
    return {
      x: within(event.clientX - box.left, box.width),
      y: within(event.clientY - box.top, box.height),
    };
  }

  function playerAt(stage, event) {
    stage.cursor = fractionAt(stage, event);
    return labelAt(method[stage.name].map, stage.cursor);
  }

  /* The neighbour in a direction: past this part's edge, to the middle of the next part's run. */
  function neighbour(stage, dx, dy) {
    const { map } = method[stage.name];
    const { labels, width, height } = map;
    const label = ({ x, y }) =>
      x >= 0 && y >= 0 && x < width && y < height ? labels[y * width + x] : -1;
    const ahead = ({ x, y }) => ({ x: x + dx, y: y + dy });
    const lastOfRun = (at) => {
      while (label(ahead(at)) === label(at)) at = ahead(at);
      return at;
    };
    const start = { x: cell(stage.cursor.x, width), y: cell(stage.cursor.y, height) };
    const first = ahead(lastOfRun(start));
    if (label(first) < 0) return label(start);
    const last = lastOfRun(first);
    const [x, y] = [(first.x + last.x) >> 1, (first.y + last.y) >> 1];
    stage.cursor = { x: (x + 0.5) / width, y: (y + 0.5) / height };
    return labels[y * width + x];
  }

  /* Put the keyboard's cursor on the part's pixel nearest to its centre. */
  function centre(stage, player) {
    const { labels, width, height, x, y } = method[stage.name].map;
    let best = 0;
    let nearest = Infinity;
    labels.forEach((label, i) => {
      if (label !== player) return;
      const far =
        ((i % width) + 0.5 - x[player] * width) ** 2 +
        (Math.floor(i / width) + 0.5 - y[player] * height) ** 2;
      if (far < nearest) [best, nearest] = [i, far];
    });
    stage.cursor = { x: ((best % width) + 0.5) / width, y: (Math.floor(best / width) + 0.5) / height };
  }

  function bounds({ labels, width, height }, player) {
    let [left, upper, right, lower] = [width, height, 0, 0];
    labels.forEach((label, i) => {
      if (label !== player) return;
      const [x, y] = [i % width, Math.floor(i / width)];
      left = Math.min(left, x);
      right = Math.max(right, x + 1);
      upper = Math.min(upper, y);
      lower = Math.max(lower, y + 1);
    });
    return [left / width, upper / height, right / width, lower / height];
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  /* A box that reaches from the selection to the neighbour in a direction. */
  function grow(stage, step) {
    const { map } = method[stage.name];
    const start = state.side === stage.name ? (state.box ?? bounds(map, state.player)) : null;
    const next = bounds(map, neighbour(stage, ...step));
    const box = start
      ? next.map((at, i) => (i < 2 ? Math.min(at, start[i]) : Math.max(at, start[i])))
      : next;
    hold(stage, box);
  }

  function onKey(stage, event) {
    if (!method[stage.name] || event.altKey || event.ctrlKey || event.metaKey) return;
    const under = () => labelAt(method[stage.name].map, stage.cursor);
    if (event.key in ARROWS && event.shiftKey) {
      grow(stage, ARROWS[event.key]);
    } else if (event.key in ARROWS) {
      const player = neighbour(stage, ...ARROWS[event.key]);
      if (state.side === stage.name) change({ player, box: null, probe: null });
      else point(stage, player);
    } else if (event.key === "Enter" || event.key === " ") {
      toggleHold(stage, under());
    } else if (event.key === "Escape") {
      change(nothing);
    } else return;
    event.preventDefault();
  }

  function onFocus(stage) {
    if (!method[stage.name] || !stage.picture.matches(":focus-visible")) return;
    const strongest = argmax(method[stage.name].heat);
    centre(stage, strongest);
    point(stage, strongest);
  }

  /* Only a picture with parts answers. */
  function tend(stage) {
    if (method[stage.name]) {
      stage.picture.tabIndex = 0;
      stage.picture.setAttribute("role", "application");
    } else {
      stage.picture.removeAttribute("tabindex");
      stage.picture.removeAttribute("role");
    }
  }

  function listen(stage) {
    const { picture } = stage;
    let touch = false;
    let wasSelected = false;
    let pressed = null;
    let dragged = false;
    const whenParts = (handler) => (event) => method[stage.name] && handler(event);
    const drag = (event) => {
      const moved = Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y);
      if (!dragged && moved < DRAG) return;
      dragged = true;
      const [a, b] = [pressed.at, fractionAt(stage, event)];
      const [left, right] = [Math.min(a.x, b.x), Math.max(a.x, b.x)];
      const [upper, lower] = [Math.min(a.y, b.y), Math.max(a.y, b.y)];
      stage.cursor = { x: (left + right) / 2, y: (upper + lower) / 2 };
      if (left < right && upper < lower) hold(stage, [left, upper, right, lower]);
    };
    const release = () => {
      pressed = null;
    };
    picture.addEventListener(
      "pointerdown",
      whenParts((event) => {
        const player = playerAt(stage, event);
        touch = event.pointerType === "touch";
        wasSelected = state.side === stage.name && state.player === player;
        dragged = false;
        if (event.button === 0) {
          pressed = { x: event.clientX, y: event.clientY, at: fractionAt(stage, event) };
          picture.setPointerCapture(event.pointerId);
        }
        point(stage, player);
      }),
    );
    picture.addEventListener(
      "pointermove",
      whenParts((event) => (pressed ? drag(event) : point(stage, playerAt(stage, event)))),
    );
    picture.addEventListener("pointerup", release);
    picture.addEventListener("pointercancel", release);
    picture.addEventListener("pointerleave", (event) => {
      /* A finger that lifts also leaves; what it chose must stay to be looked at. */
      if (event.pointerType !== "touch") leave(stage);
    });
    picture.addEventListener(
      "click",
      whenParts((event) => {
        if (dragged) return;
        if (!touch || wasSelected) toggleHold(stage, playerAt(stage, event));
      }),
    );
    picture.addEventListener("keydown", (event) => onKey(stage, event));
    picture.addEventListener("focus", () => onFocus(stage));
    picture.addEventListener("blur", () => leave(stage));
  }

  function hint() {
    const finger = matchMedia("(pointer: coarse)").matches;
    const verb = finger ? "Tap" : "Point at";
    if (method.cross === null) return `${verb} a part to read its credit, or drag a box.`;
    return finger
      ? "Tap a part to see what it matches, or drag sideways for a box; tap it again to hold it, " +
          "then tap its pairs across."
      : "Point at a part, or drag a box, to see what it matches; click to hold a part, then read " +
          "its pairs across. Keys: Tab, arrows (with Shift a box), Enter, Esc.";
  }

  function select(side, player) {
    if (side === null || side === undefined) {
      state = { ...nothing };
    } else {
      if (!method[side] || !Object.hasOwn(method[side].heat, player)) {
        throw new RangeError(`no player ${player} on side ${side}`);
      }
      centre(stages[side], player);
      state = { ...nothing, side, player, held: true };
    }
    draw();
  }

  function report() {
    const { limit, counterpart = null, value, numbers } = view(method);
    const arrived = numbers ? Array.from(numbers) : null;
    return { ...state, method: method.name, counterpart, value, limit, arriving: arrived };
  }

  SIDES.forEach((side) => {
    listen(stages[side]);
    tend(stages[side]);
  });
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".picture, .scale, .card, .top, .values")) change(nothing);
  });
  sharedBox.addEventListener("change", draw);
  slider.addEventListener("input", () => {
    fit();
    draw();
  });
  values.addEventListener("toggle", draw);
  addEventListener("resize", redraw);
  document.querySelector(".methods").hidden = methods.length < 2;
  fit();
  drawRamp();
  draw();

  const plain = (face) =>
    face && {
      width: face.map.width,
      height: face.map.height,
      labels: face.map.labels,
      heat: face.heat,
    };
  const numbersOf = (own) => ({
    method: own.name,
    backbone: data.backbone,
    order: own.order,
    query: plain(own.query),
    retrieved: plain(own.retrieved),
    cross: own.cross,
    colors,
  });
  window.shapjax = {
    get explanation() {
      return numbersOf(method);
    },
    explanations: methods.map(numbersOf),
    select,
    show,
    state: report,
  };
})();
