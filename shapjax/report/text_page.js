"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(atob(data.colors), (c) => c.charCodeAt(0));
  const middle = 127;
  const sides = ["query", "retrieved"];
  const chips = Object.fromEntries(
    sides.map((side) => [side, [...document.querySelectorAll(`#${side} :is(bdi, path)`)]]),
  );
  const find = (selector) => document.querySelector(selector);
  const largest = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0) || 1;
  const heats = sides.flatMap((side) => data[side].heat ?? []);
  const limits = { credit: largest(heats), cross: largest((data.cross ?? []).flat()) };
  const number = (value) =>
    (value > 0 ? "+" : "") + value.toPrecision(3).replace("-", "−");

  function paint(element, value, limit) {
    const t = Math.max(-1, Math.min(1, value / limit));
    const at = 3 * (Math.round(t * middle) + middle);
    const color = `rgb(${bytes[at]} ${bytes[at + 1]} ${bytes[at + 2]})`;
    element.style.background = element.style.fill = color;
    element.style.color = Math.abs(t) > 0.55 ? "#fff" : "#1d1d1b";
    element.title = number(value);
  }

  function clear(element) {
    element.style.background = element.style.fill = element.style.color = element.title = "";
  }

  function scale(quantity, limit) {
    find(".quantity").textContent = `${quantity}, in units of similarity`;
    find(".low").textContent = number(-limit);
    find(".high").textContent = number(limit);
  }

  function select(side, player) {
    for (const name of sides) chips[name].forEach((chip) => chip.classList.remove("chosen"));
    if (side === null || data.cross === null) {
      for (const name of sides) {
        chips[name].forEach((chip, i) =>
          data[name].heat ? paint(chip, data[name].heat[i], limits.credit) : clear(chip),
        );
      }
      scale("credit of each part", limits.credit);
      find(".hint").textContent = data.cross
        ? "Point at a word, or a part of a picture, to see what it has to do with the other side."
        : "";
      return;
    }
    const other = side === "query" ? "retrieved" : "query";
    chips[side].forEach(clear);
    chips[side][player].classList.add("chosen");
    chips[other].forEach((chip, i) =>
      paint(chip, side === "query" ? data.cross[player][i] : data.cross[i][player], limits.cross),
    );
    scale(`interaction with “${data[side].names[player]}”`, limits.cross);
  }

  for (const side of sides) {
    chips[side].forEach((chip, i) => {
      chip.addEventListener("pointerenter", () => select(side, i));
      chip.addEventListener("focus", () => select(side, i));
      chip.addEventListener("pointerleave", () => select(null));
      chip.addEventListener("blur", () => select(null));
    });
  }

  function matrix() {
    const table = find(".matrix");
    const cell = (row, tag, text) => {
      const made = row.appendChild(document.createElement(tag));
      made.textContent = text;
      return made;
    };
    const head = table.createTHead().insertRow();
    cell(head, "td", "");
    for (const name of data.retrieved.names) cell(head, "th", name).scope = "col";
    const body = table.createTBody();
    data.cross.forEach((values, i) => {
      const row = body.insertRow();
      cell(row, "th", data.query.names[i]).scope = "row";
      for (const value of values) {
        paint(cell(row, "td", value.toFixed(2).replace("-", "−")), value, limits.cross);
      }
    });
    table.hidden = false;
  }

  const ramp = find(".ramp canvas").getContext("2d");
  const pixels = ramp.createImageData(255, 1);
  for (let i = 0; i < 255; i++) pixels.data.set([...bytes.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  ramp.putImageData(pixels, 0, 0);
  if (data.cross) matrix();
  select(null);
  window.shapjax = { explanation: data, select: (side, player) => select(side ?? null, player) };
})();
