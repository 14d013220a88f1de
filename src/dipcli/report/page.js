"use strict";
// The stage: two pictures one over the other, a divider between them, zoom and pan. Without this script the page shows
// them side by side.
(() => {
  const MOST = 32; // times a pixel is enlarged, or four times what fits
  const pictures = document.getElementById("pictures");
  const views = pictures ? [...pictures.querySelectorAll("img[data-view]")] : [];
  if (views.length) stage(pictures, views);
  copying();

  function stage(pictures, views) {
    const bench = document.getElementById("bench").content.cloneNode(true);
    pictures.prepend(bench);
    pictures.classList.add("ready");
    const box = pictures.querySelector(".stage");
    const divider = box.querySelector(".divider");
    const zoomed = pictures.querySelector(".zoom output");
    const legend = pictures.querySelector(".legend");
    const strip = [...pictures.querySelectorAll(".strip button")];
    const width = Number(pictures.dataset.width), height = Number(pictures.dataset.height);
    const sides = ["left", "right"].map((name) => ({
      sheet: box.querySelector(`.side.${name} .sheet`),
      image: box.querySelector(`.side.${name} img`),
      tag: box.querySelector(`.tag.${name}`),
      select: pictures.querySelector(`select.${name}`),
    }));
    let split = 50, scale = 1, fit = 1, x = 0, y = 0;

    // What is shown.
    for (const side of sides) {
      views.forEach((view, number) => side.select.add(new Option(view.dataset.view, number)));
      side.sheet.style.width = `${width}px`;
      side.sheet.style.height = `${height}px`;
      side.select.addEventListener("change", () => show(side, Number(side.select.value)));
    }
    function show(side, number) {
      const view = views[number];
      side.select.value = number;
      side.image.src = view.src;
      side.image.alt = view.alt;
      side.tag.textContent = view.dataset.view;
      side.sheet.classList.toggle("clear", view.closest("figure")?.classList.contains("clear") ?? false);
      const [left, top, wide, high] = (view.dataset.place || "0 0 100 100").split(" ");
      Object.assign(side.image.style, { left: `${left}%`, top: `${top}%`, width: `${wide}%`, height: `${high}%` });
      const shown = sides.map((each) => views[each.select.value]).filter((each) => each?.dataset.legend);
      legend.textContent = [...new Set(shown)].map((each) => `${each.dataset.view}: ${each.dataset.legend}`).join(" · ");
      strip.forEach((each) => each.setAttribute("aria-pressed", String(each.contains(views[sides[1].select.value]))));
      box.classList.toggle("alone", sides[0].select.value === sides[1].select.value);
      draw();
    }
    strip.forEach((button, place) => {
      button.addEventListener("click", () => show(sides[1], views.indexOf(button.querySelector("img"))));
      button.addEventListener("keydown", (event) => {
        const next = strip[place + (event.key === "ArrowRight") - (event.key === "ArrowLeft")];
        if (next && next !== button) { next.focus(); event.preventDefault(); }
      });
    });

    // The divider.
    function divide(percent) {
      split = Math.min(100, Math.max(0, percent));
      const [from, to] = extent();
      box.style.setProperty("--split", box.classList.contains("alone") ? "0px" : `${from + (to - from) * split / 100}px`);
      divider.setAttribute("aria-valuenow", String(Math.round(split)));
      divider.setAttribute("aria-valuetext", `${Math.round(split)} % ${sides[0].tag.textContent}`);
    }
    function extent() { // of what can be seen of the picture, from left to right
      return [Math.max(0, x), Math.min(box.clientWidth, x + width * scale)];
    }
    divider.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
      if (event.key in steps) { divide(split + steps[event.key]); event.preventDefault(); event.stopPropagation(); }
    });

    // Zoom and pan: a pixel of the result is `scale` pixels of the page, its corner is at (x, y).
    function layOut() {
      const whole = scale === fit;
      const room = Math.max(240, Math.min(0.78 * window.innerHeight, 900));
      const wide = box.clientWidth;
      fit = Math.min(wide / width, room / height);
      const dots = window.devicePixelRatio || 1;
      // Whole dots a pixel, so that none is wider than its neighbour; where dots are fine that shows with large ones alone.
      if (fit * dots > (dots < 1.5 ? 1 : 3)) fit = Math.floor(fit * dots) / dots;
      box.style.height = `${Math.round(Math.min(room, Math.max(height * fit, 240)))}px`;
      if (whole || scale < fit) scale = fit;
      draw();
    }
    function draw() {
      const wide = box.clientWidth, high = box.clientHeight;
      const place = (at, length, space) =>
        length <= space ? (space - length) / 2 : Math.min(0, Math.max(space - length, at));
      x = place(x, width * scale, wide);
      y = place(y, height * scale, high);
      for (const side of sides) {
        side.sheet.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
        const own = views[side.select.value];
        if (!own) continue;
        const part = own.dataset.place ? Number(own.dataset.place.split(" ")[2]) / 100 : 1;
        const enlarged = scale * (window.devicePixelRatio || 1) * width * part / (own.naturalWidth || width);
        side.image.classList.toggle("pixels", enlarged >= 1.5);
      }
      const [from, to] = extent();
      sides[0].tag.style.left = `${from + 10}px`;
      sides[1].tag.style.right = `${box.clientWidth - to + 10}px`;
      sides.forEach((side) => { side.tag.style.maxWidth = `${Math.max(60, (to - from) / 2 - 20)}px`; });
      divide(split);
      box.classList.toggle("near", scale > fit * 1.001);
      zoomed.textContent = `${Math.round(100 * scale * (window.devicePixelRatio || 1))} %`;
    }
    function zoom(to, atX = box.clientWidth / 2, atY = box.clientHeight / 2) {
      const before = scale;
      scale = Math.min(Math.max(MOST, 4 * fit), Math.max(fit, to));
      x = atX - (atX - x) * scale / before;
      y = atY - (atY - y) * scale / before;
      draw();
    }
    const ways = { in: () => zoom(scale * 1.5), out: () => zoom(scale / 1.5), fit: () => zoom(fit), one: () => zoom(1 / (window.devicePixelRatio || 1)) };
    pictures.querySelectorAll("[data-zoom]").forEach((each) => each.addEventListener("click", ways[each.dataset.zoom]));
    box.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      const keys = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "one" };
      if (event.key in keys) ways[keys[event.key]]();
      else if (event.key in moves && scale > fit) { x += moves[event.key][0]; y += moves[event.key][1]; draw(); }
      else return;
      event.preventDefault();
    });

    // A wheel that turns while the page is scrolling goes on scrolling it; so it does away from a whole picture.
    let scrolled = -Infinity;
    window.addEventListener("scroll", () => { scrolled = performance.now(); }, { passive: true });
    box.addEventListener("wheel", (event) => {
      const away = event.deltaY > 0 && scale <= fit;
      if (!event.ctrlKey && (away || performance.now() - scrolled < 300)) return;
      event.preventDefault();
      const frame = box.getBoundingClientRect();
      zoom(scale * Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / (event.ctrlKey ? 60 : 200)), event.clientX - frame.left, event.clientY - frame.top);
    }, { passive: false });

    // Fingers and mouse: one moves the divider, or the picture where it is larger than the stage; two zoom.
    const held = new Map();
    let moving = null, apart = 0;
    box.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      held.set(event.pointerId, event);
      box.setPointerCapture(event.pointerId);
      const divides = divider.contains(event.target) || scale <= fit * 1.001;
      moving = held.size > 1 ? "zoom" : divides ? "divider" : "picture";
      apart = 0;
      box.classList.add("held");
      (divides ? divider : box).focus({ preventScroll: true });
      if (moving === "divider") follow(event);
      event.preventDefault();
    });
    box.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (!before) return;
      held.set(event.pointerId, event);
      if (moving === "divider") follow(event);
      else if (moving === "picture") { x += event.clientX - before.clientX; y += event.clientY - before.clientY; draw(); }
      else if (held.size > 1) pinch();
    });
    for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, (event) => {
      held.delete(event.pointerId);
      if (!held.size) { moving = null; box.classList.remove("held"); }
    });
    function follow(event) {
      const [from, to] = extent();
      divide(100 * (event.clientX - box.getBoundingClientRect().left - from) / (to - from));
    }
    function pinch() {
      const [one, other] = [...held.values()], frame = box.getBoundingClientRect();
      const now = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      if (apart) zoom(scale * now / apart, (one.clientX + other.clientX) / 2 - frame.left, (one.clientY + other.clientY) / 2 - frame.top);
      apart = now;
    }

    const large = pictures.querySelectorAll(".plain img").length;
    show(sides[0], 0);
    show(sides[1], large > 1 ? 1 : views.length - 1);
    layOut();
    new ResizeObserver(layOut).observe(pictures);
    window.addEventListener("resize", layOut);
    views.forEach((each) => each.complete || each.addEventListener("load", draw, { once: true }));
  }

  function copying() {
    const button = document.getElementById("copy"), command = document.getElementById("command");
    if (!button) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.textContent);
      } catch { // a page from a disk may not: what is chosen can be copied all the same
        const range = document.createRange();
        range.selectNodeContents(command);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
