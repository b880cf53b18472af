/** What of a text is not in another. */

/** Above this product of lengths the texts are too long to compare word by word. */
const MOST = 4_000_000;

/**
 * The second text in pieces: [text, whether it is not in the first].
 * @returns {[string, boolean][]}
 */
export function differences(first, second) {
  const [one, other] = [words(first), words(second)];
  if (one.length * other.length > MOST) return [[second, first !== second]];
  const shared = commonWords(one, other);
  const pieces = [];
  other.forEach((word, place) => {
    const isNew = !shared.has(place) && word.trim() !== "";
    if (pieces.length && pieces.at(-1)[1] === isNew) pieces.at(-1)[0] += word;
    else pieces.push([word, isNew]);
  });
  return pieces;
}

function words(text) {
  return text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]/gu) ?? [];
}

/** Places of `other` that belong to a longest common subsequence. */
function commonWords(one, other) {
  const width = other.length + 1;
  const lengths = new Uint16Array((one.length + 1) * width);
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = other.length - 1; j >= 0; j--) {
      const [here, down, right] = [i * width + j, (i + 1) * width + j, i * width + j + 1];
      lengths[here] = one[i] === other[j] ? lengths[down + 1] + 1 : Math.max(lengths[down], lengths[right]);
    }
  }
  const shared = new Set();
  for (let i = 0, j = 0; i < one.length && j < other.length; ) {
    if (one[i] === other[j]) {
      shared.add(j);
      i++;
      j++;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
    else j++;
  }
  return shared;
}
