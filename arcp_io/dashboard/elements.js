// Elements of the page. Text of agents enters the page here alone, as text, never as markup.

// Return an element with attributes and children; a child is an element or text.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Set the text of an element, if it is another than before: a screen reader reads it again otherwise.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// Show or hide an element.
export function show(target, shown) {
  if (target.hidden === shown) target.hidden = !shown;
}
