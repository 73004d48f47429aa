// The only place that turns text into HTML. What comes here was cleaned by the server (web/markdown.py);
// the page's security policy refuses HTML from anywhere else.

const policy = globalThis.trustedTypes?.createPolicy("trimtab", { createHTML: (html) => html });

export function putCleanHtml(element, html) {
  element.innerHTML = policy ? policy.createHTML(html) : html;
}

export function parsePage(html) {
  return new DOMParser().parseFromString(policy ? policy.createHTML(html) : html, "text/html");
}

export const byId = (id) => document.getElementById(id);

/** A copy of what is in a <template>. */
export const copyOf = (id) => byId(id).content.cloneNode(true);
