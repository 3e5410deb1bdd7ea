for (const table of document.querySelectorAll("table.sort")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const key = (row, column) => {
    const text = row.cells[column].textContent, number = parseFloat(text.replace("\u2212", "-"));
    const words = table.tHead.rows[0].cells[column].classList.contains("text");
    return words ? text.toLowerCase() : Number.isNaN(number) ? -Infinity : number;
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const down = head.ariaSort !== "descending" && column > 0 && !head.classList.contains("text") || head.ariaSort === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => a < b ? -1 : a > b ? 1 : 0;
    rows.sort((a, b) => order(key(a, column), key(b, column)) * (down ? -1 : 1));
    body.append(...rows);
  }));
  const filter = table.closest("section").querySelector(".filter");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
