"use strict";
const byName = new Intl.Collator(undefined, { numeric: true }).compare;
const orders = {
  worst: (a, b) => a.rank - b.rank,
  high: (a, b) => b.score - a.score,
  low: (a, b) => a.score - b.score,
  type: (a, b) => byName(a.defect, b.defect) || a.rank - b.rank,
  name: (a, b) => byName(a.name, b.name),
};

for (const gallery of document.querySelectorAll(".gallery")) {
  const tools = gallery.querySelector(".tools");
  const list = gallery.querySelector(".cards");
  const cards = [...list.children];
  const arrange = () => {
    cards.sort((a, b) => orders[tools.sort.value](a.dataset, b.dataset));
    list.append(...cards);
    const [, key, wanted] = /^(?:(\w+):)?(.*)$/s.exec(tools.show.value);
    for (const card of cards) card.hidden = Boolean(key) && card.dataset[key] !== wanted;
    const shown = cards.filter((card) => !card.hidden).length;
    tools.querySelector("output").value = `${shown} of ${cards.length}`;
    gallery.dataset.map = tools.map.value;
    gallery.classList.toggle("outlined", tools.outline?.checked);
  };
  tools.addEventListener("change", arrange);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = false;
  arrange();
  list.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card && event.target.closest("button")) zoom.open(card, gallery.dataset.map);
  });
}

/* The enlarged image: one dialog, filled from the card that is looked at. */
const zoom = (() => {
  const dialog = document.querySelector("#zoom");
  const find = (selector) => dialog.querySelector(selector);
  const [under, over, line] = ["under", "over", "line"].map((name) => find(`img.${name}`));
  const isMap = (view) => ["student", "teacher", "combined"].includes(view);
  let card = null;
  let view = "student";

  const pictures = () => {
    const found = {};
    for (const image of card.querySelectorAll("img")) found[image.dataset.view] = image;
    return found;
  };
  const put = (image, source) => {
    image.hidden = !source;
    if (source) image.src = source.src;
  };
  const draw = () => {
    const { outline, ...views } = pictures();
    if (!(view in views)) view = "student";
    const ground = views.input || views.depth;
    put(under, isMap(view) ? ground : null);
    put(over, views[view]);
    put(line, find(".lined input").checked ? outline : null);
    over.style.opacity = isMap(view) && ground ? find(".blend input").value / 100 : 1;
    over.alt = views[view].alt;
    const { width, height } = card.dataset;
    find(".canvas").style.setProperty("--aspect", width / height);
    find(".blend").style.visibility = isMap(view) && ground ? "visible" : "hidden";
    find(".lined").style.visibility = outline ? "visible" : "hidden";
    find(".name").textContent = card.dataset.name;
    find(".about").textContent =
      [card.dataset.verdict, card.querySelector(".about").textContent].filter(Boolean).join(" · ");
    find(".strip").replaceChildren(...Object.entries(views).map(([name, image]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", name === view);
      button.append(image.cloneNode(), image.alt);
      button.addEventListener("click", () => { view = name; draw(); });
      return button;
    }));
  };
  const step = (by) => {
    const shown = [...card.parentElement.children].filter((other) => !other.hidden);
    card = shown[(shown.indexOf(card) + by + shown.length) % shown.length];
    draw();
  };

  find(".close").addEventListener("click", () => dialog.close());
  find(".previous").addEventListener("click", () => step(-1));
  find(".next").addEventListener("click", () => step(1));
  find(".blend").addEventListener("input", draw);
  find(".lined").addEventListener("change", draw);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    card.scrollIntoView({ block: "nearest" });
    card.querySelector("button").focus();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    const names = Object.keys(pictures()).filter((name) => name !== "outline");
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (names[event.key - 1]) { view = names[event.key - 1]; draw(); }
    else return;
    event.preventDefault();
  });
  let from = null;
  find(".canvas").addEventListener("touchstart", (event) => { from = event.touches[0].clientX; }, { passive: true });
  find(".canvas").addEventListener("touchend", (event) => {
    const moved = event.changedTouches[0].clientX - from;
    if (Math.abs(moved) > 50) step(moved < 0 ? 1 : -1);
  });

  return {
    open(chosen, wanted) {
      card = chosen;
      view = wanted;
      draw();
      dialog.showModal();
    },
  };
})();
