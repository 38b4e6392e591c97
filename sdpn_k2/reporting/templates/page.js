// A click on a heading sorts the table by that column, a second click reverses the order. Empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach(other => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((first, second) => {
        const [a, b] = [value(first, column), value(second, column)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const difference = Number(a) - Number(b);
        return direction * (Number.isNaN(difference) ? a.localeCompare(b, undefined, {numeric: true}) : difference);
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// A box that is wider than the screen fades at its right end, and a line below it says that it scrolls.
for (const box of document.querySelectorAll(".scroll, nav div")) {
  let hint = null;
  const update = () => {
    const hidden = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more-right", hidden - box.scrollLeft > 1);
    if (hidden > 1 && !hint && box.matches(".scroll")) {
      hint = document.createElement("p");
      hint.className = "hint";
      hint.textContent = "Scroll sideways for more →";
      box.after(hint);
      box.tabIndex = 0;
    }
    if (hint) hint.hidden = hidden <= 1;
  };
  box.addEventListener("scroll", update, {passive: true});
  new ResizeObserver(update).observe(box);
  update();
}
