"use strict";
// A click on a heading, or Enter, sorts by that column; once more turns it round. What is not known stays last.
(() => {
  const table = document.querySelector(".runs"), body = table.tBodies[0];
  const rows = [...body.rows], heads = [...table.querySelectorAll("th[data-key]")];
  const order = new Intl.Collator(undefined, { numeric: true });
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[head.cellIndex].dataset.value;
      const compare = head.classList.contains("number")
        ? (one, other) => Number(one) - Number(other)
        : (one, other) => order.compare(one, other);
      rows.sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        if (!a || !b) return !a - !b;
        return down ? compare(b, a) : compare(a, b);
      });
      body.replaceChildren(...rows);
    });
  }
})();
