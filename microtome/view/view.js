"use strict";
const at = (id) => document.getElementById(id);
const viewer = OpenSeadragon({
  element: at("stage"), showNavigationControl: false, showNavigator: true, navigatorPosition: "TOP_RIGHT",
  drawer: "canvas", crossOriginPolicy: false, maxZoomPixelRatio: 4, minZoomImageRatio: 0.5, animationTime: 0.4,
  imageLoaderLimit: 6, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
});
let slides = [], current = -1, shown = null, wanted = 0;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function colour([, red, green, blue]) { return `rgb(${red} ${green} ${blue})`; }

function source(slide, layer, number) {
  return {
    width: slide.width, height: slide.height, tileSize: slide.tile_px, tileOverlap: 0, minLevel: 0, maxLevel: slide.last,
    // Maps are drawn over whatever stands under them, so their tiles must not be taken for opaque.
    hasTransparency: () => layer > 0,
    getTileUrl: (level, x, y) => `/tiles/${number}/${layer}/${level}/${x}_${y}`,
  };
}

async function show(number) {
  if (number < 0 || number >= slides.length || number === current) return;
  const mine = ++wanted;
  const response = await fetch(`/slides/${number}.json`);
  const answer = response.ok ? await response.json() : { problem: await response.text() };
  if (mine !== wanted) return;
  current = number;
  for (const [place, button] of at("slides").querySelectorAll("button").entries()) {
    button.setAttribute("aria-current", String(place === number));
  }
  at("title").textContent = slides[number].id;
  at("layers").replaceChildren();
  viewer.world.removeAll();
  shown = answer.problem ? null : answer;
  at("problems").textContent = answer.problem ?? answer.notes.join(" ");
  if (!shown) { at("facts").textContent = ""; return; }
  const size = `${shown.width.toLocaleString("en")} × ${shown.height.toLocaleString("en")} px`;
  at("facts").textContent = size + (shown.mpp ? `, ${shown.mpp.toPrecision(4)} µm/px` : ", pixel size not known");
  shown.layers.forEach((layer, place) => {
    const opacity = place ? 0.6 : 1, visible = place < 2;
    viewer.addTiledImage({ tileSource: source(shown, place, number), index: place, opacity: visible ? opacity : 0 });
    at("layers").append(control(layer, place, opacity, visible));
  });
  location.hash = encodeURIComponent(slides[number].id);
}

function control(layer, place, opacity, visible) {
  const on = element("input", { type: "checkbox", checked: visible });
  const much = element("input", { type: "range", min: 0, max: 100, value: 100 * opacity, ariaLabel: `Opacity of ${layer.name}` });
  const set = () => viewer.world.getItemAt(place)?.setOpacity(on.checked ? much.value / 100 : 0);
  on.addEventListener("change", set);
  much.addEventListener("input", () => { on.checked = true; set(); });
  const box = element("div", { className: "layer" }, element("label", {}, on, `${place + 1}  ${layer.name}`));
  if (place) box.append(much);
  const names = layer.legend.map(([name]) => name);
  if (names.length && names.every((name) => Number.isFinite(Number(name)))) {
    const ramp = element("div", { className: "ramp" });
    ramp.style.background = `linear-gradient(90deg, ${layer.legend.map(colour).join(", ")})`;
    box.append(ramp, element("div", { className: "ends" }, element("span", { textContent: names[0] }),
      element("span", { textContent: names.at(-1) })));
  } else if (names.length) {
    const legend = element("div", { className: "legend" });
    for (const entry of layer.legend) {
      const swatch = element("i");
      swatch.style.background = colour(entry);
      legend.append(element("span", {}, swatch, entry[0]));
    }
    box.append(legend);
  }
  return box;
}

function scaleBar() {
  at("bar").hidden = !shown?.mpp || !viewer.world.getItemCount();
  if (at("bar").hidden) return;
  const item = viewer.world.getItemAt(0);
  const perPixel = shown.mpp / item.viewportToImageZoom(viewer.viewport.getZoom(true));
  const most = 140 * perPixel, power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((step) => step * power).find((step) => step <= most);
  at("bar").style.width = `${length / perPixel}px`;
  at("bar").firstElementChild.textContent = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
}
viewer.addHandler("update-viewport", scaleBar);
viewer.addHandler("tile-load-failed", (event) => {
  at("problems").textContent = `A tile cannot be shown: ${event.message ?? "it was refused"}`;
});
new OpenSeadragon.MouseTracker({
  element: viewer.canvas, moveHandler: (event) => {
    const item = viewer.world.getItemAt(0);
    if (!item || !shown) return;
    const place = item.viewportToImageCoordinates(viewer.viewport.pointFromPixel(event.position));
    at("position").textContent = `x ${Math.floor(place.x)}, y ${Math.floor(place.y)} px`;
  },
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "range") return;
  const boxes = [...at("layers").querySelectorAll('input[type="checkbox"]')];
  const sliders = [...at("layers").querySelectorAll('input[type="range"]')];
  if (/^[1-9]$/.test(event.key)) boxes[event.key - 1]?.click();
  else if (event.key === "n") show(current + 1);
  else if (event.key === "p") show(current - 1);
  else if (event.key === "[" || event.key === "]") {
    for (const [place, slider] of sliders.entries()) {
      if (!boxes[place + 1].checked) continue;
      slider.value = Number(slider.value) + (event.key === "]" ? 10 : -10);
      slider.dispatchEvent(new Event("input"));
    }
  }
});

fetch("/slides.json").then((response) => response.json()).then((answer) => {
  slides = answer.slides;
  at("notes").textContent = answer.notes.join(" ");
  slides.forEach((slide, number) => {
    const said = slide.probability === null ? "" : slide.probability.toFixed(3);
    const button = element("button", { type: "button", title: slide.target }, slide.id, element("span", { textContent: said }));
    button.addEventListener("click", () => show(number));
    at("slides").append(element("li", {}, button));
  });
  const named = slides.findIndex((slide) => slide.id === decodeURIComponent(location.hash.slice(1)));
  show(Math.max(0, named));
});
