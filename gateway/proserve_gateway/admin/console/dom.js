// Builds elements. Text is always text: nothing that comes from the gateway is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const element = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => make(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

// A part of `whole`, as a coloured piece of a bar; widths by the style object, which the content policy allows.
export function piece(className, share, title) {
  const made = element("span", { class: className, title });
  made.style.width = `${100 * share}%`;
  return made;
}

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
export const seconds = (value) => (value < 1 ? `${(1000 * value).toFixed(0)} ms` : `${value.toFixed(2)} s`);
export const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
export const words = (name) => name.replaceAll("_", " ");
export const clock = (unixSeconds) => new Date(1000 * unixSeconds).toLocaleTimeString("en-GB");
