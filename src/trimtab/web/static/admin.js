// Admin pages work without this: it brings the parts that change up to date, and copies links.

import { byId, parsePage } from "./html.js";

async function refresh(place) {
  if (document.hidden || place.contains(document.activeElement)) return;
  const open = [...place.querySelectorAll("details")].map((box) => box.open);
  try {
    const response = await fetch(place.dataset.piece, { cache: "no-store", redirect: "error" });
    const piece = parsePage(await response.text()).getElementById("piece");
    if (!response.ok || !piece) throw new Error(`the server answered ${response.status}`);
    place.replaceChildren(...piece.childNodes);
    for (const [index, box] of [...place.querySelectorAll("details")].entries()) box.open = open[index] ?? false;
    delete place.dataset.stale;
  } catch {
    place.dataset.stale = "What you see is not up to date: the server does not answer.";
  }
}

for (const place of document.querySelectorAll("[data-piece]")) {
  refresh(place);
  setInterval(() => refresh(place), 1000 * Number(place.dataset.every));
}

for (const button of document.querySelectorAll("[data-copy]")) {
  const field = byId(button.dataset.copy);
  // The clipboard is for secure pages alone; elsewhere the field is there to copy from.
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(field.value);
    button.textContent = "Copied";
  });
  field.addEventListener("focus", () => field.select());
}
