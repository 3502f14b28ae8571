"use strict";

(() => {
  const QUERY = "query";
  const RETRIEVED = "retrieved";
  const NICE = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];
  /* Parts weaker than this share of the strongest pair stay pale instead of filling the scale. */
  const WEAK = 0.1;

  const data = JSON.parse(document.getElementById("data").textContent);
  const decode = (text, Kind) =>
    new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const colors = decode(data.colors, Uint8Array);
  const middle = (colors.length / 3 - 1) / 2;
  const cross = data.cross === null ? null : decode(data.cross, Float32Array);
  const sides = { query: open(QUERY), retrieved: open(RETRIEVED) };
  const crossMost = cross ? most(cross) : 0;
  const heatMost = Math.max(...Object.values(sides).map((side) => (side ? most(side.heat) : 0)));

  /* side and player: the part pointed at, or null. held: it stays while the pointer leaves.
     probe: a part of the other picture that is pointed at meanwhile. */
  const nothing = { side: null, player: null, held: false, probe: null };
  let state = { ...nothing };
  let drawn = false;

  const scale = document.querySelector(".scale");
  const shared = scale.querySelector(".shared");
  const sharedBox = shared.querySelector("input");

  function open(name) {
    const given = data[name];
    if (given === null) return null;
    const figure = document.getElementById(name);
    const canvas = figure.querySelector(".picture canvas");
    [canvas.height, canvas.width] = given.shape;
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    figure.querySelector("svg").setAttribute("viewBox", `0 0 ${canvas.width} ${canvas.height}`);
    return {
      name,
      width: canvas.width,
      height: canvas.height,
      labels: decode(given.labels, Int32Array),
      heat: decode(given.heat, Float32Array),
      cursor: { x: 0, y: 0 },
      picture: figure.querySelector(".picture"),
      readout: figure.querySelector(".readout"),
      paths: figure.querySelectorAll("path"),
      context,
      image,
      pixels: new Uint32Array(image.data.buffer),
      outlined: null,
    };
  }

  function most(values) {
    return values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
  }

  function argmax(values) {
    return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
  }

  function scaleLimit(largest) {
    if (!(largest > 0)) return 1;
    const decade = 10 ** Math.floor(Math.log10(largest));
    return (NICE.find((n) => largest <= n * decade * (1 + 1e-6)) ?? 10) * decade;
  }

  function signed(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size < 1e-4 ? size.toExponential(2) : size.toPrecision(3);
    return (value < 0 ? "−" : "+") + text.replace("-", "−");
  }

  function tick(value) {
    const text = String(Number(Math.abs(value).toPrecision(3)));
    return (value < 0 ? "−" : "+") + text.replace("-", "−");
  }

  function other(name) {
    return name === QUERY ? RETRIEVED : QUERY;
  }

  function pair(side, player, counterpart) {
    const [q, r] = side === QUERY ? [player, counterpart] : [counterpart, player];
    return cross[q * sides.retrieved.heat.length + r];
  }

  /* The coefficients of one part with every part of the other picture. */
  function row(side, player) {
    return sides[other(side)].heat.map((_, counterpart) => pair(side, player, counterpart));
  }

  /* Everything on screen, derived from the state alone. */
  function view() {
    const pointing = cross !== null && state.player !== null;
    if (!pointing) {
      return { pointing, limit: scaleLimit(heatMost), value: pointedHeat() };
    }
    const values = row(state.side, state.player);
    const strongest = argmax(values);
    const counterpart = values[strongest] > 0 ? strongest : null;
    const shown = state.probe ?? counterpart;
    const largest = sharedBox.checked ? crossMost : Math.max(most(values), WEAK * crossMost);
    return {
      pointing,
      values,
      counterpart,
      shown,
      limit: scaleLimit(largest),
      value: shown === null ? null : values[shown],
    };
  }

  function pointedHeat() {
    return state.player === null ? null : sides[state.side].heat[state.player];
  }

  function paint(side, values, limit) {
    const table = Uint32Array.from(values, (value) => {
      const share = Math.max(-1, Math.min(1, value / limit));
      const at = 3 * (Math.round(share * middle) + middle);
      return (255 << 24) | (colors[at + 2] << 16) | (colors[at + 1] << 8) | colors[at];
    });
    for (let i = 0; i < side.labels.length; i += 1) side.pixels[i] = table[side.labels[i]];
    side.context.putImageData(side.image, 0, 0);
  }

  function outline(side, player) {
    if (side.outlined === player) return;
    side.outlined = player;
    const path = player === null ? "" : border(side, player);
    side.paths.forEach((element) => element.setAttribute("d", path));
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

  function draw() {
    const now = view();
    for (const side of Object.values(sides)) {
      if (side) drawSide(side, now);
    }
    drawScale(now);
    drawn = true;
  }

  function drawSide(side, now) {
    const mine = side.name === state.side;
    const plain = now.pointing && mine;
    if (!plain) paint(side, now.pointing ? now.values : side.heat, now.limit);
    side.picture.classList.toggle("heated", !plain);
    side.picture.classList.toggle("held", mine && state.held);
    outline(side, mine ? state.player : now.pointing ? now.shown : null);
    side.readout.textContent = mine ? ownWords(side) : otherWords(side, now);
  }

  function ownWords(side) {
    const words = `part ${state.player}: credit ${signed(side.heat[state.player])}`;
    return state.held ? `${words}, held` : words;
  }

  function otherWords(side, now) {
    if (!now.pointing) {
      const total = side.heat.reduce((sum, value) => sum + value, 0);
      return `${side.heat.length} parts, credit ${signed(total)} in all`;
    }
    if (state.probe !== null) return `with part ${state.probe}: ${signed(now.value)}`;
    if (now.counterpart === null) return "no part here speaks for the match";
    return `strongest with part ${now.counterpart}: ${signed(now.value)}`;
  }

  function drawScale(now) {
    scale.querySelector(".low").textContent = tick(-now.limit);
    scale.querySelector(".high").textContent = tick(now.limit);
    scale.querySelector(".quantity").textContent = now.pointing
      ? `Interaction with ${state.side} part ${state.player}, in units of similarity`
      : "Credit of each part, in units of similarity";
    const needle = scale.querySelector(".needle");
    needle.hidden = now.value === null;
    if (now.value !== null) {
      const share = Math.max(-1, Math.min(1, now.value / now.limit));
      needle.style.left = `${50 + 50 * share}%`;
    }
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

  /* Many pointer events may come between two frames; one drawing serves them all. */
  function change(next) {
    const same = Object.keys(next).every((key) => next[key] === state[key]);
    if (same) return;
    state = { ...state, ...next };
    if (drawn) requestAnimationFrame(draw);
    drawn = false;
  }

  function point(side, player) {
    if (!state.held) {
      change({ side: side.name, player, probe: null });
    } else if (cross !== null && state.side !== side.name) {
      change({ probe: player });
    }
  }

  /* Only what this picture chose goes: a tap on one picture takes the focus from the other. */
  function leave(side) {
    if (state.side !== side.name) change({ probe: null });
    else if (!state.held) change(nothing);
  }

  function toggleHold(side, player) {
    const release = state.held && state.side === side.name && state.player === player;
    change({ side: side.name, player, held: !release, probe: null });
  }

  function playerAt(side, event) {
    const box = side.picture.getBoundingClientRect();
    const cell = (at, length, count) =>
      Math.max(0, Math.min(count - 1, Math.floor((at / length) * count)));
    side.cursor = {
      x: cell(event.clientX - box.left, box.width, side.width),
      y: cell(event.clientY - box.top, box.height, side.height),
    };
    return side.labels[side.cursor.y * side.width + side.cursor.x];
  }

  /* The neighbour in a direction: past this part's edge, to the middle of the next part's run. */
  function neighbour(side, dx, dy) {
    const label = ({ x, y }) =>
      x >= 0 && y >= 0 && x < side.width && y < side.height ? side.labels[y * side.width + x] : -1;
    const ahead = ({ x, y }) => ({ x: x + dx, y: y + dy });
    const lastOfRun = (at) => {
      while (label(ahead(at)) === label(at)) at = ahead(at);
      return at;
    };
    const first = ahead(lastOfRun(side.cursor));
    if (label(first) < 0) return label(side.cursor);
    const last = lastOfRun(first);
    side.cursor = { x: (first.x + last.x) >> 1, y: (first.y + last.y) >> 1 };
    return label(side.cursor);
  }

  /* Put the keyboard's cursor on the part's pixel nearest to its centre. */
  function centre(side, player) {
    const own = [];
    side.labels.forEach((label, i) => label === player && own.push(i));
    const xs = own.map((i) => i % side.width);
    const ys = own.map((i) => Math.floor(i / side.width));
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const [x, y] = [mean(xs), mean(ys)];
    const nearness = own.map((_, k) => -((xs[k] - x) ** 2 + (ys[k] - y) ** 2));
    const best = argmax(nearness);
    side.cursor = { x: xs[best], y: ys[best] };
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function onKey(side, event) {
    const under = () => side.labels[side.cursor.y * side.width + side.cursor.x];
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in ARROWS) {
      const player = neighbour(side, ...ARROWS[event.key]);
      if (state.side === side.name) change({ player, probe: null });
      else point(side, player);
    } else if (event.key === "Enter" || event.key === " ") {
      toggleHold(side, under());
    } else if (event.key === "Escape") {
      change(nothing);
    } else return;
    event.preventDefault();
  }

  function onFocus(side) {
    if (!side.picture.matches(":focus-visible")) return;
    const strongest = argmax(side.heat);
    centre(side, strongest);
    point(side, strongest);
  }

  function listen(side) {
    const { picture } = side;
    let touch = false;
    let wasSelected = false;
    picture.tabIndex = 0;
    picture.setAttribute("role", "application");
    picture.addEventListener("pointerdown", (event) => {
      const player = playerAt(side, event);
      touch = event.pointerType === "touch";
      wasSelected = state.side === side.name && state.player === player;
      point(side, player);
    });
    picture.addEventListener("pointermove", (event) => point(side, playerAt(side, event)));
    picture.addEventListener("pointerleave", (event) => {
      /* A finger that lifts also leaves; what it chose must stay to be looked at. */
      if (event.pointerType !== "touch") leave(side);
    });
    picture.addEventListener("click", (event) => {
      if (!touch || wasSelected) toggleHold(side, playerAt(side, event));
    });
    picture.addEventListener("keydown", (event) => onKey(side, event));
    picture.addEventListener("focus", () => onFocus(side));
    picture.addEventListener("blur", () => leave(side));
  }

  function hint() {
    const finger = matchMedia("(pointer: coarse)").matches;
    if (cross === null) return `${finger ? "Tap" : "Point at"} a part to read its credit.`;
    return finger
      ? "Tap a part to see what it matches; tap it again to hold it, then tap its pairs across."
      : "Point at a part to see what it matches; click to hold it, then read its pairs across. " +
          "Keys: Tab, arrows, Enter, Esc.";
  }

  function select(side, player) {
    if (side === null || side === undefined) {
      state = { ...nothing };
    } else {
      if (!sides[side] || !Object.hasOwn(sides[side].heat, player)) {
        throw new RangeError(`no player ${player} on side ${side}`);
      }
      centre(sides[side], player);
      state = { ...nothing, side, player, held: true };
    }
    draw();
  }

  function report() {
    const { limit, counterpart = null, value } = view();
    return { ...state, counterpart, value, limit };
  }

  Object.values(sides).forEach((side) => side && listen(side));
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".picture, .scale")) change(nothing);
  });
  sharedBox.addEventListener("change", draw);
  shared.hidden = cross === null;
  document.querySelector(".hint").textContent = hint();
  drawRamp();
  draw();

  const plain = (side) =>
    side && { width: side.width, height: side.height, labels: side.labels, heat: side.heat };
  window.shapjax = {
    explanation: {
      method: data.method,
      backbone: data.backbone,
      order: data.order,
      query: plain(sides.query),
      retrieved: plain(sides.retrieved),
      cross,
      colors,
    },
    select,
    state: report,
  };
})();
