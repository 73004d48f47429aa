// Dialogs are the browser's own: they hold the focus, close with Esc, and give the focus back.

import { isTyping, keyName } from "./keys.js";

export function showDialog(dialog) {
  if (!dialog.open) dialog.showModal();
}

/** The reason that the person chose or wrote; null where the dialog was left. */
export function askReason(dialog) {
  if (dialog.open) return Promise.resolve(null);
  const field = dialog.querySelector("input");
  field.value = "";
  dialog.returnValue = "";
  let reason = null;
  const choose = (button) => {
    reason = button.dataset.reason;
    dialog.close();
  };
  const clicked = ({ target }) => {
    const button = target.closest("button");
    if (button?.dataset.reason !== undefined) choose(button);
    else if (button && "cancel" in button.dataset) dialog.close();
  };
  const pressed = (event) => {
    if (isTyping(event.target)) return;
    const button = dialog.querySelector(`[data-key="${CSS.escape(keyName(event) ?? "")}"]`);
    if (!button) return;
    event.preventDefault();
    choose(button);
  };
  dialog.addEventListener("click", clicked);
  dialog.addEventListener("keydown", pressed);
  showDialog(dialog);
  return new Promise((resolve) => {
    const closed = () => {
      dialog.removeEventListener("click", clicked);
      dialog.removeEventListener("keydown", pressed);
      resolve(reason ?? (dialog.returnValue === "own" ? field.value.trim() : null));
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}
