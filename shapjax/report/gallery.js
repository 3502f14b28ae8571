"use strict";

(() => {
  const SIDES = ["query", "retrieved"];
  const WHOLE = 127;

  const content = (id) => JSON.parse(document.getElementById(id).textContent);
  const decode = (text, Kind) =>
    new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const data = content("data");
  const colors = decode(data.colors, Uint8Array);
  const maps = data.maps.map(({ shape: [height, width], labels }) => ({
    height,
    width,
    labels: decode(labels, Uint16Array),
  }));
  const gallery = document.querySelector(".gallery");
  const select = document.querySelector(".sort select");
  const reverse = document.querySelector(".sort input");
  const items = data.cards.map(openItem);

  /* A card without pictures: those come when it is in view. */
  function openItem(card, place) {
    const element = document.createElement("article");
    element.className = "item";
    element.tabIndex = -1;
    element.setAttribute("aria-label", `${card.names[1]}, similarity ${card.words[0]}`);
    const two = document.createElement("div");
    two.className = "two";
    const pictures = SIDES.map(() => {
      const picture = document.createElement("div");
      picture.className = "picture";
      two.append(picture);
      return picture;
    });
    const first = document.createElement("p");
    const name = document.createElement(card.page === null ? "bdi" : "a");
    name.className = "name";
    name.textContent = name.title = card.names[1];
    if (card.page !== null) {
      name.href = card.page;
      name.tabIndex = -1; /* The card is reached instead, which opens it. */
    }
    const readout = document.createElement("p");
    readout.className = "readout";
    first.append(name, text(`similarity ${card.words[0]}`));
    element.append(two, first, readout);
    const item = { ...card, stored: card.pictures, place, element, pictures, readout, open: null };
    readout.replaceChildren(...idleWords(item));
    element.shapjax = item;
    return item;
  }

  function text(words) {
    const element = document.createElement("span");
    element.textContent = words;
    return element;
  }

  function idleWords(item) {
    return [text(item.method), text(`inefficiency ${item.words[1]}`)];
  }

  function signed(value) {
    if (value === 0) return "0";
    return (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(2).replace("-", "−");
  }

  /* In view: read what the page holds of this pair, and draw it. */
  function unfold(item) {
    if (item.open) return;
    const given = content(`pair-${item.place}`);
    const sides = SIDES.map((side, i) => {
      const { ratio, uri } = content(`picture-${item.stored[i]}`);
      const picture = item.pictures[i];
      picture.style.setProperty("--ratio", ratio);
      const image = document.createElement("img");
      image.src = uri;
      image.alt = item.names[i];
      picture.replaceChildren(image);
      const face = given[side];
      if (face === null) return null;
      const canvas = document.createElement("canvas");
      picture.append(canvas);
      picture.dataset.parts = "";
      const map = maps[face.map];
      [canvas.width, canvas.height] = [map.width, map.height];
      return { map, picture, heat: decode(face.heat, Int8Array), context: canvas.getContext("2d") };
    });
    const cross = given.cross === undefined ? null : decode(given.cross, Int8Array);
    item.open = { sides, cross, limit: given.limit, crossLimit: given.cross_limit };
    rest(item);
  }

  function fold(item) {
    item.open = null;
    item.pictures.forEach((picture) => picture.replaceChildren());
  }

  function paint({ map, context, picture }, steps) {
    const image = context.createImageData(map.width, map.height);
    const pixels = new Uint32Array(image.data.buffer);
    const table = Uint32Array.from(steps, (step) => {
      const at = 3 * (step + WHOLE);
      return (255 << 24) | (colors[at + 2] << 16) | (colors[at + 1] << 8) | colors[at];
    });
    map.labels.forEach((label, i) => {
      pixels[i] = table[label];
    });
    context.putImageData(image, 0, 0);
    picture.classList.add("heated");
  }

  function rest(item) {
    for (const side of item.open.sides) if (side) paint(side, side.heat);
    item.readout.replaceChildren(...idleWords(item));
  }

  function point(item, i, event) {
    const { sides, cross, limit, crossLimit } = item.open;
    const side = sides[i];
    if (!side) return;
    const box = side.picture.getBoundingClientRect();
    const cell = (at, length, count) =>
      Math.max(0, Math.min(count - 1, Math.floor((at / length) * count)));
    const x = cell(event.clientX - box.left, box.width, side.map.width);
    const y = cell(event.clientY - box.top, box.height, side.map.height);
    const part = side.map.labels[y * side.map.width + x];
    if (cross === null) {
      const credit = (side.heat[part] / WHOLE) * limit;
      item.readout.replaceChildren(text(`credit about ${signed(credit)}`));
      return;
    }
    const other = sides[1 - i];
    const row = other.heat.map((_, there) =>
      i === 0 ? cross[part * other.heat.length + there] : cross[there * side.heat.length + part],
    );
    paint(other, row);
    side.picture.classList.remove("heated");
    const most = (Math.max(...row) / WHOLE) * crossLimit;
    item.readout.replaceChildren(text(`strongest pair about ${signed(most)}`));
  }

  /* One listener for all cards. */
  function onPointer(event) {
    const picture = event.target.closest?.(".picture");
    const item = picture?.closest(".item").shapjax;
    for (const pointed of gallery.querySelectorAll(".pointed")) {
      if (pointed !== item?.element) {
        pointed.classList.remove("pointed");
        if (pointed.shapjax.open) rest(pointed.shapjax);
      }
    }
    if (!item?.open) return;
    item.element.classList.add("pointed");
    rest(item);
    point(item, item.pictures.indexOf(picture), event);
  }

  /* Of a thousand cards the Tab key reaches one; arrow keys move on from it. */
  function aim(element) {
    const before = gallery.querySelector('[tabindex="0"]');
    if (before) before.tabIndex = -1;
    element.tabIndex = 0;
  }

  function onKey(event) {
    const here = items.indexOf(event.target.shapjax);
    if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.target.querySelector("a.name")?.click();
    } else {
      const columns = getComputedStyle(gallery).gridTemplateColumns.split(" ").length;
      const there = {
        ArrowLeft: here - 1,
        ArrowRight: here + 1,
        ArrowUp: here - columns,
        ArrowDown: here + columns,
        Home: 0,
        End: items.length - 1,
      }[event.key];
      if (there === undefined) return;
      items[there]?.element.focus();
    }
    event.preventDefault();
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        (isIntersecting ? unfold : fold)(target.shapjax);
      }
    },
    { rootMargin: "50%" },
  );

  /* The best in front: high similarity, low inefficiency, names from A to Z. */
  const ORDERS = {
    similarity: (a, b) => b.similarity - a.similarity,
    inefficiency: (a, b) => a.inefficiency - b.inefficiency,
    name: (a, b) => a.names[1].localeCompare(b.names[1]),
  };

  function sort() {
    const way = reverse.checked ? -1 : 1;
    items.sort((a, b) => way * ORDERS[select.value](a, b) || a.place - b.place);
    gallery.replaceChildren(...items.map((item) => item.element));
    aim(items[0].element);
  }

  select.addEventListener("change", sort);
  reverse.addEventListener("change", sort);
  document.addEventListener("pointermove", onPointer);
  document.addEventListener("pointerdown", onPointer);
  gallery.addEventListener("keydown", onKey);
  gallery.addEventListener("focusin", (event) => aim(event.target.closest(".item")));
  sort();
  items.forEach((item) => watcher.observe(item.element));

  window.shapjax = {
    get order() {
      return items.map((item) => item.place);
    },
    get unfolded() {
      return items.filter((item) => item.open).length;
    },
    pairs: data.cards,
  };
})();
