"use strict";
// Clicking a column heading sorts by it; a second click reverses the order. Unknown values stay last.
(() => {
  const body = document.querySelector(".runs").tBodies[0];
  const rows = [...body.rows], heads = [...document.querySelectorAll("th[data-key]")];
  const collator = new Intl.Collator(undefined, { numeric: true });
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const compare = head.classList.contains("number") ? (a, b) => a - b : collator.compare;
      rows.sort((row, other) => {
        const [a, b] = [row, other].map((each) => each.cells[head.cellIndex].dataset.value);
        return a && b ? sign * compare(a, b) : !a - !b;
      });
      body.replaceChildren(...rows);
    });
  }
})();
