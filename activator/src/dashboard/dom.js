// Making elements. Text is only ever text: nothing here, or in the files that use it, parses markup.

/** An element with this class and these children, which are elements or texts. */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** A number with so many decimals. */
export const fixed = (number, decimals = 1) => number.toLocaleString("en", {
  minimumFractionDigits: decimals, maximumFractionDigits: decimals, useGrouping: false,
});

/** Milliseconds, with one decimal. */
export const milliseconds = (ms) => `${fixed(ms)} ms`;

/** Bytes in the largest binary unit of which there is one, from MiB on; number and unit are not parted. */
export function bytes(count) {
  const mebibytes = count / 2 ** 20;
  return mebibytes < 1024 ? `${fixed(mebibytes, mebibytes < 10 ? 1 : 0)}\u00a0MiB` : `${fixed(mebibytes / 1024)}\u00a0GiB`;
}

/** A horizontal bar of a lane, from and to in parts of the lane's width (0 to 1). */
export function bar(className, from, to) {
  const made = element("span", `bar ${className}`);
  made.style.left = `${100 * from}%`;
  made.style.width = `${100 * Math.max(0, to - from)}%`;
  return made;
}
