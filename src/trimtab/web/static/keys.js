// From a key press to the name that `keys` of a kind use: 1, b, shift+2, ArrowLeft, Enter.

/** The name of the key, or null where the press is none of ours. */
export function keyName(event) {
  // While a character is being composed (Japanese, Chinese, accents), keys belong to the composition.
  if (event.isComposing || event.keyCode === 229) return null;
  // A key held down must not judge ten pairs.
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return null;
  if (event.key.length > 1) return event.key;
  if (event.key === "?") return "?";
  // By position: on French keyboards the digits need Shift, on others Shift and a digit is a sign.
  const digit = /^(Digit|Numpad)(\d)$/.exec(event.code);
  if (digit) return event.shiftKey && digit[1] === "Digit" ? `shift+${digit[2]}` : digit[2];
  const letter = event.key.toLowerCase();
  if (/^[\x20-\x7e]$/.test(letter)) return letter;
  // Keyboards without Latin letters: by position too.
  return /^Key([A-Z])$/.exec(event.code)?.[1].toLowerCase() ?? null;
}

export const isTyping = (target) =>
  target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]") !== null;

/** Whether the browser itself does something with Enter there. */
export const takesEnter = (target) => target.closest("button, a, summary") !== null;
