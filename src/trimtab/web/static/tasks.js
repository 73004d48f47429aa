// A task on the screen. Every text is there three times (rendered, raw, with differences marked); the stage's
// data-view says which one is seen, so that changing the view is one attribute.

import { copyOf, putCleanHtml } from "./html.js";

const SIDES = ["First answer", "Second answer"];
const ROLES = { system: "System", user: "User", assistant: "Assistant", tool: "Tool" };

export const taskId = ({ item, round }) => `${item}:${round}`;

/** The article of a task, hidden. */
export function buildTask(task) {
  const article = copyOf("task").firstElementChild;
  article.dataset.task = taskId(task);
  article.setAttribute("aria-label", "What you judge");
  buildPrompt(article.querySelector(".prompt"), task.prompt);
  buildContext(article.querySelector(".context"), task.context);
  const answers = article.querySelector(".answers");
  answers.dataset.count = task.answers.length;
  answers.append(...task.answers.map((answer, place) => buildAnswer(task.kind, answer, place)));
  return article;
}

function buildPrompt(section, turns) {
  const heading = section.querySelector("h2");
  heading.classList.toggle("unseen", turns.some((turn) => turn.role)); // the roles say it
  for (const turn of turns) {
    if (turn.role) section.append(paragraph("role", ROLES[turn.role] ?? turn.role));
    section.append(buildText(turn));
  }
}

function buildContext(details, passages) {
  if (!passages.length) return details.remove();
  details.querySelector("summary").textContent = passages.length === 1 ? "One passage" : `${passages.length} passages`;
  for (const passage of passages) {
    const quote = document.createElement("blockquote");
    quote.append(buildText(passage));
    details.append(quote);
  }
}

function buildAnswer(kind, answer, place) {
  const section = copyOf("answer").firstElementChild;
  const heading = section.querySelector("h2");
  heading.textContent = kind === "rank" ? `Answer ${place + 1}` : kind === "rate" ? "Answer" : SIDES[place];
  const button = section.querySelector(".place");
  if (kind === "rank") button.dataset.act = `place-${place}`;
  else button.remove();
  section.append(buildText(answer));
  return section;
}

function buildText({ html, raw, spans }) {
  const text = copyOf("text");
  putCleanHtml(text.querySelector(".rendered"), html);
  text.querySelector(".raw").textContent = raw;
  text.querySelector(".differences").append(...marked(spans ?? [raw]));
  return text;
}

/** Pieces that are shared and not shared, in turns. */
function marked(spans) {
  return spans.map((piece, index) => {
    if (index % 2 === 0) return piece;
    const mark = document.createElement("mark");
    mark.textContent = piece;
    return mark;
  });
}

function paragraph(kind, words) {
  const element = document.createElement("p");
  element.className = kind;
  element.textContent = words;
  return element;
}
