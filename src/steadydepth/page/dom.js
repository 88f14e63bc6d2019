// Elements of the page: found, made, and filled with what there is to choose.

export const find = (id) => document.getElementById(id);

export function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// `options` are [value, text]; a list that is the same is left alone, and what was chosen stays chosen.
export function fillSelect(select, options) {
  const chosen = select.value, shown = JSON.stringify(options);
  if (select.dataset.shown === shown) return;
  select.dataset.shown = shown;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}
